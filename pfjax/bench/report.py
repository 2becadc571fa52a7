"""A report as one table, for terminals of 80 columns and of more, and as JSON."""

from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pfjax.bench.ceilings import Rate
from pfjax.bench.measure import Report
from pfjax.bench.operations import matrix_weights
from pfjax.bench.parts import Part

_WIDE = 112
_TITLES = {
    "prefill_policy": "prefill, policy",
    "prefill_prm": "prefill, PRM",
    "decode": "decoding a token",
    "scoring": "scoring a step",
    "move": "moving caches",
}
_HEADS = ("", "time", "speed", "of copy", "of matmul", "bound by")


def document(report: Report) -> dict:
    """The JSON of `pfjax bench --json`; seconds, bytes and operations, shares of 0 to 1."""
    case = report.case
    return {
        "machine": report.machine,
        "options": vars(report.options),
        "batch": case.batch,
        "rows": case.rows,
        "budget": case.budget._asdict(),
        "matrix_weights": {"policy": matrix_weights(case.policy), "prm": matrix_weights(case.prm)},
        "ceilings": {
            "copy": _rate(report.copy),
            "matmul": _rate(report.matmul),
            "matmul_at_decoding": _rate(report.decode_matmul),
        },
        "parts": {
            name: part._asdict() | shares(report, part) for name, part in report.parts.items()
        },
        "solve": report.search._asdict()
        | {
            "problems_per_second": report.search.problems / report.search.seconds,
            "policy_tokens_per_second": report.search.policy_tokens / report.search.seconds,
            "prm_tokens_per_second": report.search.prm_tokens / report.search.seconds,
        },
    }


def shares(report: Report, part: Part) -> dict:
    """Of the copy and of the matmul rate that a part reaches, and which of them bounds it."""
    copy = part.bytes_moved and part.bytes_moved / part.seconds / report.copy.per_second
    matmul = part.operations and part.operations / part.seconds / report.matmul.per_second
    bound = "memory" if (copy or 0) >= (matmul or 0) else "compute"
    speed = part.tokens and part.tokens / part.seconds
    return {"tokens_per_second": speed, "of_copy": copy, "of_matmul": matmul, "bound": bound}


def show(report: Report, console: Console | None = None) -> None:
    """The report on stdout; how each figure was measured stands beside it, or below if it is narrow."""
    console = console or Console()
    wide = console.width >= _WIDE
    table = Table.grid(padding=(0, 2, 0, 0))
    for i in range(len(_HEADS)):
        table.add_column(justify="left" if i in (0, 5) else "right", no_wrap=True)
    if wide:
        table.add_column(ratio=1)
    console.print(_head(report))
    table.add_row(*(Text(head, "dim") for head in (*_HEADS, *["measured with"] * wide)))
    rows = [*_ceilings(report), *_parts(report), *_search(report)]
    for name, *cells, how in rows:
        cells = [Text(cell) for cell in cells]
        table.add_row(Text(name, "bold"), *cells, *[Text(how, "dim")] * wide)
    console.print(table)
    if not wide:
        console.print()
        for name, *_, how in rows:
            if how:
                console.print(Text(f"{name.strip()}: {how}.", "dim"))


def _head(report: Report) -> Text:
    here, options, case = report.machine, report.options, report.case
    kind = here["device"]
    kind += "" if here["platform"] == kind else f" ({here['platform']})"
    kind += "" if here["devices"] == 1 else f", one of {here['devices']} devices"
    text = Text(f"{options.policy} with {options.prm}", "bold")
    text.append(f"{', random weights' if options.random else ''}, {case.dtype}", "bold")
    text.append(f"\n{kind}, {here['cores']} cores, Python {here['python']}, jax {here['jax']}, ")
    busy = "" if here["load"] is None else f", load {here['load']:.1f} before"
    text.append(f"{here['date']}{busy}\n")
    text.append(
        f"{len(case.prompts)} problems x {case.engine.n} particles, {case.rows} rows at a time"
    )
    text.append(f", steps of {case.budget.step_tokens} tokens\n")
    kept = ", too small to be a measurement" if options.small else ""
    return text.append(f"medians of {options.repeats}{kept}\n")


def _ceilings(report: Report) -> list[list[str]]:
    copy, square, thin = report.copy, report.matmul, report.decode_matmul
    share = f"{thin.per_second / square.per_second:.0%}"
    return [
        ["copy bandwidth", _time(median(copy.seconds)), _bytes(copy), "100%", "", "", copy.how],
        ["matmul rate", _time(median(square.seconds)), _flops(square), "", "100%", "", square.how],
        ["  rows of decoding", _time(median(thin.seconds)), _flops(thin), "", share, "", thin.how],
        [""] * 7,
    ]


def _parts(report: Report) -> list[list[str]]:
    rows = []
    for name, part in report.parts.items():
        found = shares(report, part)
        if part.tokens is None:
            speed = f"{(part.bytes_moved or 0) / part.seconds / 1e9:,.1f} GB/s"
        else:
            speed = f"{found['tokens_per_second']:,.0f} tokens/s"
        of = [_percent(found[kind]) for kind in ("of_copy", "of_matmul")]
        rows.append([_TITLES[name], _time(part.seconds), speed, *of, found["bound"], part.what])
    return [*rows, [""] * 7]


def _search(report: Report) -> list[list[str]]:
    found = report.search
    tokens = found.policy_tokens / found.seconds, found.prm_tokens / found.seconds
    speed = f"{found.problems / found.seconds:,.3g} problems/s"
    return [
        [
            "whole solve",
            _time(found.seconds),
            speed,
            "",
            "",
            "",
            "discarded tokens and probes are counted",
        ],
        ["  policy", "", f"{tokens[0]:,.0f} tokens/s", "", "", "", ""],
        ["  PRM", "", f"{tokens[1]:,.0f} tokens/s", "", "", "", ""],
        [
            "  lower bound",
            _time(found.bound_seconds),
            f"{found.ratio:.1f}x slower",
            "",
            _percent(1 / found.ratio),
            "compute",
            "two operations a weight and token; no prompts, no attention",
        ],
        [
            "  first call",
            _time(found.first_seconds),
            f"{found.compilations} programs",
            "",
            "",
            "",
            "with compilation",
        ],
    ]


def _rate(rate: Rate) -> dict:
    return {"per_second": rate.per_second, "seconds": median(rate.seconds)} | {
        "amount": rate.amount,
        "how": rate.how,
    }


def _bytes(rate: Rate) -> str:
    return f"{rate.per_second / 1e9:,.1f} GB/s"


def _flops(rate: Rate) -> str:
    tera = rate.per_second / 1e12
    return f"{tera:,.1f} TFLOP/s" if tera >= 1 else f"{1e3 * tera:,.0f} GFLOP/s"


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1e3 * seconds:,.2f} ms"
