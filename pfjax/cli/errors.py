"""How commands end badly: one sentence on stderr, an exit code, a traceback only with --debug."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import typer

INTERRUPTED = 130
T = TypeVar("T")


def interruptible(work: Callable[[], T]) -> T:
    """work() in a thread of its own, so that Ctrl-C need not wait for a compilation to end."""
    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=target, daemon=True).start()
    return future.result()


def leave_now(code: int) -> None:
    """Ends the process without teardown, which crashes while JAX threads still compute."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def one_sentence(debug: bool) -> Iterator[None]:
    """What a command raises becomes `pfjax: <message>` and exit code 2; Ctrl-C a quiet 130."""
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"pfjax: {_sentence(error)}", file=sys.stderr)
        raise typer.Exit(2) from None


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}."
    if isinstance(error, (ValueError, OSError)):
        return text
    if isinstance(error, AssertionError) and not text and os.environ.get("JAX_PLATFORMS"):
        return f"JAX found no device of JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}; unset it, or install its plugin."
    return f"{type(error).__name__}: {text} (run again with --debug for the traceback)"
