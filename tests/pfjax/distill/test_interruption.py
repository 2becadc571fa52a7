"""Signals are noted while work is watched, and the handlers of before come back."""

import signal
import threading

import pytest

from pfjax.distill import interruption
from pfjax.distill.interruption import Interrupted, watched

BOTH = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def handlers():
    """Handlers of Python, as in a notebook, and the ones of before afterwards."""
    before = {s: signal.getsignal(s) for s in interruption.SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    yield
    for s, handler in before.items():
        signal.signal(s, handler)


def _terminate(signum, frame):
    raise SystemExit(7)


@BOTH
def test_the_first_signal_is_noted_and_stops_where_it_is_asked_for(signum):
    passed = []
    with pytest.raises(Interrupted, match="^interrupted at step 3$") as caught, watched():
        interruption.check("before")
        signal.raise_signal(signum)
        passed.append(1)
        interruption.check("at step 3")
    assert passed and caught.value.signum == signum
    assert isinstance(caught.value, KeyboardInterrupt) and interruption.noted() is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is _terminate


@BOTH
def test_the_second_signal_acts_at_once(signum):
    seen = []
    with watched(at_once=seen.append):
        signal.raise_signal(signal.SIGINT)
        assert not seen
        signal.raise_signal(signum)
        assert seen == [signum]
    kind = KeyboardInterrupt if signum == signal.SIGINT else SystemExit
    with pytest.raises(kind), watched():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signum)
        raise AssertionError("not reached")


def test_a_signal_that_nobody_asked_for_is_not_lost():
    reached = []
    with pytest.raises(KeyboardInterrupt):
        with watched():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)
    with watched(at_once=reached.append):
        signal.raise_signal(signal.SIGINT)
    assert reached == [1] and interruption.noted() is None


def test_other_threads_see_the_signal_and_change_no_handler():
    seen = []

    def work():
        with watched():
            seen.append(signal.getsignal(signal.SIGINT))
        try:
            interruption.check("in a thread")
        except Interrupted as error:
            seen.append(str(error))

    def run():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    run()
    assert seen == [signal.default_int_handler]
    with watched(at_once=lambda signum: None):
        signal.raise_signal(signal.SIGINT)
        run()
    assert seen[-1] == "interrupted in a thread"


def test_one_inside_another_changes_nothing_and_what_is_ignored_stays_so():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(Interrupted), watched():
        outer = signal.getsignal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        with watched():
            assert signal.getsignal(signal.SIGINT) is outer
            signal.raise_signal(signal.SIGINT)
        interruption.check("after the inner one")
