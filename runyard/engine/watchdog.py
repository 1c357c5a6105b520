"""Finds the steps of a process that hang: past their timeout, or of cancelled invocations.

A late item is not ended at once. First no other item begins in that process (`Board.paused`), and
what is in progress beside it has some seconds to end and to be saved. Should the late item end
after all, the process continues as before.
"""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from runyard.engine.activity import Activity, Board, Work

# How long the items beside a late one have to end.
GRACE_SECONDS = 10.0
# How long the step of a cancelled invocation may continue.
CANCEL_SECONDS = 5.0
_SAMPLE_SECONDS = 0.2
# A thread that waits for the interpreter lock wakes 200 times a second to ask for it.
_WAKES = 10


class Watchdog:
    """Watches one process by its board; `clock` is the clock of the board's timestamps."""

    def __init__(self, board: Board, clock: Callable[[], float] = time.monotonic) -> None:
        self.board = board
        self._clock = clock
        self._batch = ""
        self._cancelled: dict[int, float] = {}
        self._since: float | None = None

    def late(self, cancelled: Collection[int]) -> tuple[Activity, list[Work]] | None:
        """Return what the process is doing, and which of it must be ended now; None for nothing.

        `cancelled` are the invocations of its batch that have been cancelled meanwhile.
        """
        now = self._clock()
        doing = self.board.read()
        if doing is None or doing.batch != self._batch:
            self._batch, self._cancelled = doing.batch if doing is not None else "", {}
            self._since = None
        for invocation in cancelled:
            self._cancelled.setdefault(invocation, now)
        late = self._late(doing, now) if doing is not None else []
        if doing is None or not late:
            self._since, self.board.paused = None, False
            return None
        if self._since is None:
            self._since, self.board.paused = now, True
            return None
        others = len(doing.work) > len(late) or doing.unsaved
        return None if others and now - self._since < GRACE_SECONDS else (doing, late)

    def _late(self, doing: Activity, now: float) -> list[Work]:
        late = [work for work in doing.work if now - work.since >= doing.limit]
        overdue = {
            invocation for invocation, at in self._cancelled.items() if now - at >= CANCEL_SECONDS
        }
        cancelled = [work for work in doing.work if work.invocation in overdue]
        # A single call for many continues for those that are not cancelled.
        if doing.single_call and len(cancelled) < len(doing.work):
            cancelled = []
        return late + [work for work in cancelled if work not in late]


def without_lock_waiters(pid: int, late: Sequence[Work]) -> list[Work]:
    """Return the late items, except for those that merely wait for the interpreter lock.

    They are told apart by how often their threads wake, where the system reports that (Linux);
    elsewhere all of them are returned.
    """
    if len({work.thread for work in late}) < 2:
        return list(late)
    before = [_wakes(pid, work.thread) for work in late]
    time.sleep(_SAMPLE_SECONDS)
    after = [_wakes(pid, work.thread) for work in late]
    counts = zip(late, before, after, strict=True)
    hung = [work for work, first, last in counts if last - first < _WAKES]
    return hung or list(late)


def _wakes(pid: int, thread: int) -> int:
    """Return how often a thread has waited for something so far; 0 when that is unknown."""
    try:
        lines = Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
    except OSError:
        return 0
    counts = (line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches"))
    return int(next(counts, 0))
