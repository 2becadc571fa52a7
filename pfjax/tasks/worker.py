"""A process that compares answers with math-verify: pairs in, verdicts out, one JSON line each.

    {"given": "1/2", "truth": "0.5"}  ->  {"equal": true}     or {"error": "..."}

Started by `grader.py` as `python -m pfjax.tasks.worker SECONDS`. It ends with its input, and when a comparison
has used its SECONDS of processor time or too much memory; no signals are sent. Imports no JAX.
"""

import json
import os
import sys
import threading
import time
from functools import partial

MEMORY = 4 << 30
GRACE = 1.0


def main(seconds: float) -> None:
    """Answers until the input ends."""
    from math_verify import parse, verify

    _watch(os.getppid())
    _limit("RLIMIT_AS", MEMORY)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        pair = json.loads(line)
        _limit("RLIMIT_CPU", int(time.process_time() + seconds + GRACE) + 1)
        try:
            # Without limits of their own: those need signals, and the main thread.
            read = partial(parse, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
            truth, given = (read(f"\\boxed{{{pair[name]}}}") for name in ("truth", "given"))
            said = bool(truth and given and verify(truth, given, timeout_seconds=None))
            print(json.dumps({"equal": said}), flush=True)
        except BaseException as error:
            print(json.dumps({"error": type(error).__name__}), flush=True)


def _limit(name: str, value: int) -> None:
    try:
        import resource

        _, hard = resource.getrlimit(getattr(resource, name))
        if hard == resource.RLIM_INFINITY or value <= hard:
            resource.setrlimit(getattr(resource, name), (value, hard))
    except (ImportError, ValueError, OSError):
        pass


def _watch(parent: int) -> None:
    """Ends the process when its parent has died, though a comparison goes on."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    main(float(sys.argv[1]))
