"""The folder of a run: whose it is, and that one process at a time works in it.

`run.json` tells the recipe and its settings. The lock is the kernel's (flock) and dies with the process;
where there is none (Windows, some network file systems) nothing is locked. Imports no JAX.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pfjax.settings.words import one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

RUN, LOCK = "run.json", "run.lock"
_OURS = ("checkpoints", "log.jsonl", "model", "search", "samples.npz", "stage-0", "tokenizer")


class FolderError(ValueError):
    """A folder that a run may not use; one sentence with the cause and the fix."""


@contextmanager
def claimed(folder: Path, recipe: str, settings: Mapping[str, object]) -> Iterator[None]:
    """The folder for this run alone: made if it is missing, resumed if it is of the same recipe and settings.

    FolderError if another process works in it, if it belongs to another recipe or other settings, or cannot
    be written. What ends without having written anything leaves no folder behind.
    """
    made = _made(folder)
    mine = {"recipe": recipe, "settings": json.loads(json.dumps(dict(settings)))}
    new = False
    try:
        with locked(folder / LOCK):
            try:
                new = _require_mine(folder, mine)
                if new:
                    write(folder / RUN, json.dumps(mine, indent=1) + "\n")
                yield
            finally:
                if new and {path.name for path in folder.iterdir()} <= {RUN, LOCK}:
                    (folder / RUN).unlink(missing_ok=True)
    finally:
        _remove_empty(made)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`; FolderError if another has it."""
    if fcntl is None:
        yield
        return
    while True:
        try:
            file = path.open("a+")
        except OSError as error:
            raise _cannot_write(path.parent, error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise FolderError(
                f"{path.parent} is in use by another process; wait for it, or give another folder (--out)."
            ) from None
        except OSError:  # a file system without locks
            break
        # Who held it may have removed the file between the two calls: then this lock is of no name.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def write(path: Path, text: str) -> None:
    """Writes a file at once: it is whole or not there, whenever the process dies."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def require_same(folder: Path, was: Mapping[str, object], now: Mapping[str, object]) -> None:
    """FolderError that names the first setting that differs."""
    for name in dict.fromkeys([*was, *now]):
        a, b = was.get(name), now.get(name)
        if a != b:
            raise FolderError(
                f"{folder} was begun with {name} {one_line(a, 60)}, not {one_line(b, 60)}; give another folder "
                "(--out), or what it was begun with."
            )


def _require_mine(folder: Path, mine: dict) -> bool:
    """Whether the folder is new; FolderError if it is not this run's."""
    path = folder / RUN
    if not path.exists():
        found = [name for name in _OURS if (folder / name).exists()]
        if found:
            raise FolderError(
                f"{folder} holds {found[0]} of another run; give another folder (--out)."
            )
        return True
    try:
        was = json.loads(path.read_text(encoding="utf-8"))
        recipe, settings = was["recipe"], dict(was["settings"])
    except (ValueError, TypeError, KeyError):
        raise FolderError(
            f"{path} cannot be read as a run's; give another folder (--out)."
        ) from None
    if recipe != mine["recipe"]:
        raise FolderError(
            f"{folder} belongs to {one_line(recipe, 60)}, not to {mine['recipe']}; give another folder (--out)."
        )
    require_same(folder, settings, mine["settings"])
    return False


def _made(folder: Path) -> list[Path]:
    """The folders that had to be made, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FolderError(f"{folder} is a file; give a folder (--out).") from None
    except OSError as error:
        _remove_empty(missing)
        raise _cannot_write(folder, error) from None
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        try:
            path.rmdir()
        except OSError:
            return


def _cannot_write(folder: Path, error: OSError) -> FolderError:
    return FolderError(
        f"{folder} cannot be written ({error.strerror}); give another folder (--out)."
    )
