"""Beside the tree: spinners and bars on stderr, tables and JSON on stdout."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text


@contextmanager
def spinner() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is going on; only on a terminal, and gone at the end."""
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda text: bar.update(task, description=text)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, dict], None]]:
    """progress(done, total, metrics): a bar on stderr; a line in ten seconds if no terminal."""

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    said = -math.inf
    columns += (TextColumn("{task.fields[told]}"),)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, told="")

        def progress(done: int, total: int, metrics: dict) -> None:
            nonlocal said
            told = " ".join(f"{k} {short(plain(v))}" for k, v in metrics.items())
            bar.update(task, completed=done, total=total, told=told)
            if not console.is_terminal and (time.monotonic() > said + 10 or done >= total):
                said = time.monotonic()
                print(f"{title} {done}/{total} {told}", file=sys.stderr, flush=True)

        yield progress


def plain(value: object):
    """The value as JSON can hold it: scalars of arrays are numbers, what is not finite is None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        return plain(to_list())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def flat(metrics: dict, prefix: str = "") -> list[list[str]]:
    """Rows of name and value; the names of nested metrics are joined."""
    rows = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{name} ")
        else:
            rows.append([f"{prefix}{name}", short(value)])
    return rows


def short(value: object) -> str:
    """A metric in a few characters."""
    if isinstance(value, list):
        return " .. ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_json(document: object) -> None:
    """One line of JSON."""
    print(json.dumps(plain(document), allow_nan=False))


def print_rows(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> None:
    """Aligned columns, the first one bold."""
    table = Table.grid(padding=(0, 2, 0, 0))
    if heads:
        table.add_row(*(Text(h, "dim") for h in heads))
    for first, *rest in rows:
        table.add_row(Text(first, "bold"), *map(Text, rest))
    Console().print(table)
