"""The time that runs in progress have to finish: what ends it, and what is said meanwhile."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from runyard.processes import draining
from runyard.processes.draining import Drain
from runyard.settings import settings

_LONG = 600.0


@pytest.fixture
def drain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Drain]:
    """Makes a drain with so many runs left, and so many seconds for them."""

    def make(left: Callable[[], int] = lambda: 1, seconds: float = _LONG) -> Drain:
        monkeypatch.setattr(settings(), "drain_timeout", seconds)
        return Drain(logging.getLogger("runyard.test"), left)

    return make


def test_it_ends_when_all_is_done(drain: Callable[..., Drain]) -> None:
    done = threading.Event()
    threading.Timer(0.2, done.set).start()
    assert drain().wait(done.is_set)


def test_it_ends_in_time_when_something_is_left(drain: Callable[..., Drain]) -> None:
    assert not drain(seconds=0.2).wait(lambda: False)


def test_without_time_it_ends_at_once(drain: Callable[..., Drain]) -> None:
    assert not drain(seconds=0).wait(lambda: False)


def test_what_is_done_at_the_last_moment_counts_as_done(drain: Callable[..., Drain]) -> None:
    answers = iter([False, True])
    assert drain(seconds=0).wait(lambda: next(answers))


def test_a_second_signal_ends_it(
    drain: Callable[..., Drain], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "_SAME_STOP_SECONDS", 0)
    stopping = drain()
    assert stopping.begin()
    assert not stopping.begin()
    assert not stopping.wait(lambda: False)


# Signals that come at any moment of a drain, which has no pauses here.
_SIGNALLED = """
import logging, random, signal
from runyard.processes import draining

draining._SAME_STOP_SECONDS = draining._LOOK_SECONDS = 0
for _ in range(500):
    drain = draining.Drain(logging.getLogger(), lambda: 0)
    signal.signal(signal.SIGALRM, lambda *_: drain.begin())
    drain.begin()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.001))
    drain.wait(lambda: False)
"""


def test_a_second_signal_may_come_at_any_moment() -> None:
    subprocess.run([sys.executable, "-c", _SIGNALLED], timeout=60, check=True)


def test_a_pause_ends_with_the_first_signal(drain: Callable[..., Drain]) -> None:
    stopping = drain()
    threading.Timer(0.2, stopping.begin).start()
    began = time.monotonic()
    stopping.await_begin(_LONG)
    assert time.monotonic() - began < 10


def test_without_a_signal_a_pause_ends_in_time(drain: Callable[..., Drain]) -> None:
    stopping = drain()
    stopping.await_begin(0.2)
    assert not stopping.has_begun


def test_a_signal_that_comes_twice_at_once_counts_as_one(drain: Callable[..., Drain]) -> None:
    stopping = drain(seconds=0.5)
    stopping.begin()
    stopping.begin()
    began = time.monotonic()
    assert not stopping.wait(lambda: False)
    assert time.monotonic() - began >= 0.5


def test_it_has_begun_with_the_first_signal(drain: Callable[..., Drain]) -> None:
    stopping = drain()
    assert not stopping.has_begun
    stopping.begin()
    assert stopping.has_begun


def test_it_says_how_many_runs_are_left_and_for_how_long(
    drain: Callable[..., Drain], caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([False, True])
    drain(lambda: 3, 22).wait(lambda: next(answers))
    assert caplog.messages == ["draining: 3 runs left, up to 22 s"]


def test_with_nothing_left_it_says_nothing(
    drain: Callable[..., Drain], caplog: pytest.LogCaptureFixture
) -> None:
    drain(lambda: 0, 0.2).wait(lambda: False)
    assert caplog.messages == []


def test_it_tells_each_change_once(drain: Callable[..., Drain]) -> None:
    left = iter([2, 2, 1])
    answers = iter([False, False, False, True])
    told: list[int] = []
    drain(lambda: next(left)).wait(lambda: next(answers), told.append)
    assert told == [2, 1]
