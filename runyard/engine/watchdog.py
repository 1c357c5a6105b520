"""Finds the steps of a process that do not end: past their time limit, or of cancelled invocations.

What is late is not ended at once. Nothing else begins in that process (`Board.paused`), and what is
under way beside it gets some seconds to end and to be kept. Should the late one end after all,
everything goes on as if nothing had been.
"""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from runyard.engine.activity import Activity, Board, Work

# What is under way beside a step that is late has so long to end.
LAST_SECONDS = 10.0
# So long may the step of a cancelled invocation go on.
CANCEL_SECONDS = 5.0
_SAMPLE_SECONDS = 0.2
# A thread that waits for the interpreter's lock wakes 200 times a second to ask for it.
_WAKES = 10


class Watchdog:
    """Watches over one process by its board; `clock` is that of the board's process."""

    def __init__(self, board: Board, clock: Callable[[], float] = time.monotonic) -> None:
        self.board = board
        self._clock = clock
        self._batch = ""
        self._cancelled: dict[int, float] = {}
        self._since: float | None = None

    def late(self, cancelled: Collection[int]) -> tuple[Activity, list[Work]] | None:
        """What the process does, and what of it must be ended now; None while there is nothing.

        `cancelled` are the invocations of its batch that were cancelled while it has it.
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
        return None if others and now - self._since < LAST_SECONDS else (doing, late)

    def _late(self, doing: Activity, now: float) -> list[Work]:
        late = [work for work in doing.work if now - work.since >= doing.limit]
        given_up = {one for one, at in self._cancelled.items() if now - at >= CANCEL_SECONDS}
        cancelled = [work for work in doing.work if work.invocation in given_up]
        # One call of a step for many goes on for those that are not cancelled.
        if doing.single_call and len(cancelled) < len(doing.work):
            cancelled = []
        return late + [work for work in cancelled if work not in late]


def without_lock_waiters(pid: int, late: Sequence[Work]) -> list[Work]:
    """Of the late ones those that do not just wait for the interpreter's lock.

    They are told apart by how often their threads wake, where the system says that (Linux); all of
    them elsewhere.
    """
    if len({work.thread for work in late}) < 2:
        return list(late)
    before = [_wakes(pid, work.thread) for work in late]
    time.sleep(_SAMPLE_SECONDS)
    after = [_wakes(pid, work.thread) for work in late]
    counts = zip(late, before, after, strict=True)
    guilty = [work for work, first, last in counts if last - first < _WAKES]
    return guilty or list(late)


def _wakes(pid: int, thread: int) -> int:
    """How often a thread has waited for something so far; 0 where that is not known."""
    try:
        lines = Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
    except OSError:
        return 0
    counts = (line.split()[1] for line in lines if line.startswith("voluntary_ctxt_switches"))
    return int(next(counts, 0))
