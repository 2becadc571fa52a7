"""Ctrl-C and pre-emption of long work: the signal is noted, and the work stops where nothing is lost.

Python's own handler raises KeyboardInterrupt wherever the main thread is, which inside a callback of XLA is
swallowed. Signals are of the process, so what has come is known to every thread of it; imports no JAX.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_watching: list[int] = []
_noted: list[int] = []


class Interrupted(KeyboardInterrupt):
    """Work that was stopped by signal `signum` and saved; the message says where."""

    def __init__(self, signum: int, where: str):
        super().__init__(f"interrupted {where}")
        self.signum = signum


def noted() -> int | None:
    """The signal that has come, or None."""
    return _noted[0] if _noted else None


def check(where: str) -> None:
    """Raises Interrupted if a signal has come; `where` completes "interrupted"."""
    if _noted:
        raise Interrupted(_noted[0], where)


@contextmanager
def watched(at_once: Callable[[int], None] | None = None) -> Iterator[None]:
    """SIGINT and SIGTERM are noted instead of raised, the second one acts at once.

    In the main thread only; elsewhere, and inside another `watched`, nothing changes. A signal that is
    ignored, or that a handler outside Python has, is left alone. The handlers come back at the end.
    `at_once(signum)` is what the second signal does, by default what the handlers of before do. Without it
    a signal that nobody has asked for until the end is handed to them too.
    """
    if threading.current_thread() is not threading.main_thread() or _watching:
        yield
        return
    before = {s: signal.getsignal(s) for s in SIGNALS}
    mine = [s for s, handler in before.items() if handler not in (None, signal.SIG_IGN)]

    def restore() -> None:
        for s in mine:
            signal.signal(s, before[s])

    def note(signum: int, frame: FrameType | None) -> None:
        if not _noted:
            _noted.append(signum)
            # print would fail inside a print that the signal interrupted.
            os.write(2, b"pfjax: stopping when this step is done; once more ends at once\n")
        elif at_once is not None:
            at_once(signum)
        else:
            restore()
            signal.raise_signal(signum)

    _watching.append(1)
    late = None
    try:
        for s in mine:
            signal.signal(s, note)
        yield
        late = noted() if at_once is None else None
    finally:
        restore()
        _watching.clear()
        _noted.clear()
    if late is not None:
        signal.raise_signal(late)
