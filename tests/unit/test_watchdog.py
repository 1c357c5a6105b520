"""When a step is late, and when what is late is ended."""

import os
import signal
import time

import pytest

from runyard.engine import activity
from runyard.engine.activity import Board
from runyard.engine.items import BatchState
from runyard.engine.lease import Lease
from runyard.engine.watchdog import CANCEL_SECONDS, GRACE_SECONDS, Watchdog
from runyard.errors import InvalidOption
from runyard.functions.retry import Retry
from tests.conftest import wait_until


class Watched:
    """A board with a step under way, and its watchdog, whose clock is the test's."""

    def __init__(self, limit: float = 60.0, *, single_call: bool = False) -> None:
        self.ahead = 0.0
        self.board = Board()
        self.board.start()
        self.board.hold("batch", "run")
        self.board.begin_step("charge", "op", limit, Retry(), single_call=single_call, places=4)
        self.watchdog = Watchdog(self.board, lambda: time.monotonic() + self.ahead)

    def late(self, *cancelled: int) -> list[int] | None:
        found = self.watchdog.late(cancelled)
        return None if found is None else [work.invocation for work in found[1]]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_what_is_past_its_limit_is_ended_when_it_was_seen_so_twice(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.ahead = 59
    assert watched.late() is None
    assert not watched.board.paused
    watched.ahead = 61
    assert watched.late() is None
    assert watched.board.paused
    assert watched.late() == [7]


def test_what_is_not_kept_yet_is_kept_first(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.board.unsaved = True
    watched.ahead = 61
    assert watched.late() is None
    assert watched.late() is None
    watched.board.unsaved = False
    assert watched.late() == [7]


def test_it_is_ended_all_the_same_when_they_take_too_long(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.board.unsaved = True
    watched.ahead = 61
    assert watched.late() is None
    watched.ahead += GRACE_SECONDS
    assert watched.late() == [7]


def test_one_that_ends_late_is_forgiven(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.ahead = 61
    assert watched.late() is None
    watched.board.end(0)
    assert watched.late() is None
    assert not watched.board.paused


def test_a_cancelled_one_has_some_seconds(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.board.begin(1, 8)
    assert watched.late(8) is None
    assert not watched.board.paused
    watched.ahead = CANCEL_SECONDS + 0.1
    assert watched.late(8) is None
    watched.board.end(0)
    assert watched.late(8) == [8]


def test_a_call_for_many_is_not_ended_for_one_that_is_cancelled() -> None:
    watched = Watched(single_call=True)
    watched.board.begin_all([7, 8])
    watched.late(8)
    watched.ahead = CANCEL_SECONDS + 0.1
    assert watched.late(8) is None
    assert not watched.board.paused


def test_a_call_for_many_that_is_late_is_late_for_all() -> None:
    watched = Watched(single_call=True)
    watched.board.begin_all([7, 8])
    watched.ahead = 61
    assert watched.late() is None
    assert watched.late() == [7, 8]


def test_what_a_child_does_can_be_read_when_it_is_dead() -> None:
    board = activity.expect_child()
    child = os.fork()
    if child == 0:
        activity.board().hold("batch", "run")
        activity.board().begin_step("charge", "op", 5.0, None, single_call=False, places=1)
        activity.board().begin(0, 7)
        signal.pause()
    try:
        wait_until(lambda: (doing := board.read()) is not None and doing.work)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    doing = board.read()
    assert doing is not None
    assert (board.pid, doing.batch, doing.step, doing.limit, doing.retry) == (
        child,
        "batch",
        "charge",
        5.0,
        None,
    )
    assert [work.invocation for work in doing.work] == [7]


@pytest.mark.parametrize(
    ("timeout", "says"),
    [
        ("soon", "is not a duration"),
        (0.5, "give 1 to"),
        ("400d", "out of bounds"),
        (True, "not bool"),
        (-1, "out of bounds"),
    ],
)
def test_a_timeout_that_is_none_is_refused_with_its_step(timeout: object, says: str) -> None:
    shared = BatchState("batch", "run", "nobody", [], Lease("batch", "run"))
    with pytest.raises(InvalidOption) as refused:
        shared.limit(timeout, "charge")  # type: ignore[arg-type]
    assert says in str(refused.value)
    assert "timeout=... of step 'charge'" in str(refused.value)
