"""When a step is late, and when a late step is ended."""

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
    """A board with a step in progress, and a watchdog whose clock the test sets."""

    def __init__(self, limit: float = 60.0, *, single_call: bool = False) -> None:
        self.ahead = 0.0
        self.board = Board()
        self.board.start()
        self.board.hold("batch", "run")
        self.board.begin_step("charge", "op", limit, Retry(), single_call=single_call, places=4)
        self.watchdog = Watchdog(self.board, lambda: time.monotonic() + self.ahead)

    def late(self, *cancelled: int) -> list[int] | None:
        hung = self.watchdog.late(cancelled)
        return None if hung is None else [work.invocation for work in hung[1]]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_item_past_its_timeout_is_ended_when_it_was_seen_late_twice(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.ahead = 59
    assert watched.late() is None
    assert not watched.board.paused
    watched.ahead = 61
    assert watched.late() is None
    assert watched.board.paused
    assert watched.late() == [7]


def test_unsaved_results_are_saved_first(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.board.unsaved = True
    watched.ahead = 61
    assert watched.late() is None
    assert watched.late() is None
    watched.board.unsaved = False
    assert watched.late() == [7]


def test_a_late_item_is_ended_even_if_saving_takes_too_long(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.board.unsaved = True
    watched.ahead = 61
    assert watched.late() is None
    watched.ahead += GRACE_SECONDS
    assert watched.late() == [7]


def test_an_item_that_ends_late_is_not_ended(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.ahead = 61
    assert watched.late() is None
    watched.board.end(0)
    assert watched.late() is None
    assert not watched.board.paused


def test_a_cancelled_item_has_some_seconds(watched: Watched) -> None:
    watched.board.begin(0, 7)
    watched.board.begin(1, 8)
    assert watched.late(8) is None
    assert not watched.board.paused
    watched.ahead = CANCEL_SECONDS + 0.1
    assert watched.late(8) is None
    watched.board.end(0)
    assert watched.late(8) == [8]


def test_a_call_for_many_is_not_ended_for_a_cancelled_item() -> None:
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


def test_a_childs_activity_can_be_read_after_its_death() -> None:
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
    assert board.pid == child
    assert (doing.batch, doing.step, doing.limit) == ("batch", "charge", 5.0)
    assert doing.retry is None
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
def test_a_wrong_timeout_is_rejected_with_its_step(timeout: object, says: str) -> None:
    state = BatchState("batch", "run", "nobody", [], Lease("batch", "run"))
    with pytest.raises(InvalidOption) as rejected:
        state.limit(timeout, "charge")  # type: ignore[arg-type]
    assert says in str(rejected.value)
    assert "timeout=... of step 'charge'" in str(rejected.value)
