"""What a process does, in memory that another can read: its batch, the step, the items under way.

A worker's parent makes this memory before it forks a child (`expect_child`), and the child writes there
as it goes, for less than a microsecond an item. The parent reads it whatever the child is at, while
a step holds the interpreter's lock, and after the child's death. A process without such a parent
has its own, and reads it from its heartbeat's thread.

Nothing locks it: a field is written by one thread alone, and a reader looks twice before it acts.
"""

import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runyard.functions.flow_control import MAX_BATCH_SIZE
from runyard.functions.retry import MAX_ATTEMPTS, Retry

_NUMBER = struct.Struct("<q")
_ITEM = struct.Struct("<qd")
_WORK = struct.Struct("<qqd")
_PID, _PAUSED, _UNSAVED, _PLACES, _LENGTH, _TEXT = 0, 8, 16, 24, 32, 40
_FIRST_WORK = 8192
_SIZE = _FIRST_WORK + MAX_BATCH_SIZE * _WORK.size
_LONGEST_NAME = 512


@dataclass(frozen=True)
class Work:
    """An item under way: the thread as the system numbers it, the invocation, when it began."""

    thread: int
    invocation: int
    since: float


@dataclass(frozen=True)
class Activity:
    """What a process was doing when it was looked at.

    Attributes
    ----------
    batch, run
        The batch that it holds, and the run that works on it.
    step, op, limit
        The step, its op, and how many seconds an item of it may take; empty between steps.
    retry
        When an item is tried again whose time was up; None for never.
    single_call
        Whether all items are one call of the step.
    work
        The items under way.
    unsaved
        Whether there are results that are not kept yet.
    taken
        Since when the run has been on its way to its batch (resources are made, code is loaded): it
        may take `limit` for that. 0 when it has begun.
    """

    batch: str
    run: str
    step: str
    op: str
    limit: float
    retry: Retry | None
    single_call: bool
    work: tuple[Work, ...]
    unsaved: bool
    taken: float = 0.0


class Board:
    """The memory of one process."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._held: dict[str, Any] = {}

    def start(self) -> None:
        """Say whose memory it is."""
        self._set(_PID, os.getpid())

    def start_run(self, batch_id: str, run_id: str, limit: float) -> None:
        """A run of this process is on its way to its batch, for which it may take so many seconds."""
        self._held = {"batch": batch_id, "run": run_id, "taken": time.monotonic(), "limit": limit}
        self._say(self._held)

    def hold(self, batch_id: str, run_id: str) -> None:
        """A run of this process has a batch from now on."""
        self._held = {"batch": batch_id, "run": run_id}
        self._say(self._held)

    def drop(self, batch_id: str) -> None:
        """It has this batch no more."""
        if self._held.get("batch") == batch_id:
            self._held = {}
            self._set(_LENGTH, 0)
            self._clear()

    def begin_step(
        self,
        step: str,
        op: str,
        limit: float,
        retry: Retry | None,
        *,
        single_call: bool,
        places: int,
    ) -> None:
        """A step begins, of which so many items may be under way at a time."""
        self._clear()
        self._set(_PLACES, min(places, MAX_BATCH_SIZE))
        self.enter(0)
        self._say(
            {
                **self._held,
                "step": step,
                "op": op[:_LONGEST_NAME],
                "limit": limit,
                "retry": None if retry is None else _plain(retry),
                "single_call": single_call,
            }
        )

    def end_step(self) -> None:
        """The step is over."""
        self._clear()
        if self._held:
            self._say(self._held)

    def enter(self, place: int) -> None:
        """This thread works on items from now on, one after the other, at a place of its own."""
        self._set(_FIRST_WORK + place * _WORK.size, threading.get_native_id())

    def begin(self, place: int, invocation: int) -> None:
        """An item begins."""
        at = _FIRST_WORK + place * _WORK.size + _NUMBER.size
        _ITEM.pack_into(self._memory, at, invocation, time.monotonic())

    def end(self, place: int) -> None:
        """The item at this place is over."""
        self._set(_FIRST_WORK + place * _WORK.size + _NUMBER.size, 0)

    def begin_all(self, invocations: Sequence[int]) -> None:
        """All of these begin at once, in this thread."""
        thread, now = threading.get_native_id(), time.monotonic()
        for place, invocation in enumerate(invocations[:MAX_BATCH_SIZE]):
            _WORK.pack_into(self._memory, _FIRST_WORK + place * _WORK.size, thread, invocation, now)

    def end_all(self, count: int) -> None:
        """As many that began at once are over."""
        for place in range(min(count, MAX_BATCH_SIZE)):
            self.end(place)

    @property
    def pid(self) -> int:
        """The process; 0 before it has started."""
        return self._get(_PID)

    @property
    def paused(self) -> bool:
        """Whether no further item may begin: set by who watches over the process."""
        return bool(self._get(_PAUSED))

    @paused.setter
    def paused(self, value: bool) -> None:
        self._set(_PAUSED, value)

    @property
    def unsaved(self) -> bool:
        """Whether there are results that are not kept yet."""
        return bool(self._get(_UNSAVED))

    @unsaved.setter
    def unsaved(self, value: bool) -> None:
        self._set(_UNSAVED, value)

    def read(self) -> Activity | None:
        """What the process is doing; None where it holds no batch, or is just writing that down."""
        length = self._get(_LENGTH)
        if not length:
            return None
        try:
            said = json.loads(self._memory[_TEXT : _TEXT + length])
        except ValueError:
            return None
        rule = said.get("retry")
        retry = Retry(rule["attempts"], tuple(rule["delays"]), rule["jitter"]) if rule else None
        return Activity(
            batch=said["batch"],
            run=said["run"],
            step=said.get("step", ""),
            op=said.get("op", ""),
            limit=said.get("limit", 0.0),
            retry=retry,
            single_call=said.get("single_call", False),
            work=tuple(work for work in self._entries() if work.invocation),
            unsaved=self.unsaved,
            taken=said.get("taken", 0.0),
        )

    def _entries(self) -> Iterator[Work]:
        for place in range(self._get(_PLACES)):
            yield Work(*_WORK.unpack_from(self._memory, _FIRST_WORK + place * _WORK.size))

    def _say(self, what: dict[str, Any]) -> None:
        text = json.dumps(what, ensure_ascii=False).encode()
        self._set(_LENGTH, 0)
        self._memory[_TEXT : _TEXT + len(text)] = text
        self._set(_LENGTH, len(text))

    def _clear(self) -> None:
        size = self._get(_PLACES) * _WORK.size
        self._set(_PLACES, 0)
        self._memory[_FIRST_WORK : _FIRST_WORK + size] = bytes(size)
        self.unsaved = False

    def _get(self, at: int) -> int:
        return int(_NUMBER.unpack_from(self._memory, at)[0])

    def _set(self, at: int, value: int) -> None:
        _NUMBER.pack_into(self._memory, at, value)


def _plain(retry: Retry) -> dict[str, Any]:
    """A rule without the types of errors in it: another process may not be able to load them."""
    delays = retry.delays[:MAX_ATTEMPTS]
    return {"attempts": retry.attempts, "delays": delays, "jitter": retry.jitter}


_board: Board | None = None
_expected: Board | None = None


def board() -> Board:
    """This process's own."""
    global _board
    if _board is None:
        _board = Board()
    return _board


def expect_child() -> Board:
    """The memory of the child that this process forks next."""
    global _expected
    _expected = Board()
    return _expected


def _after_fork() -> None:
    """A child has what its parent made for it; any other gets its own."""
    global _board, _expected
    _board, _expected = _expected, None
    if _board is not None:
        _board.start()


os.register_at_fork(after_in_child=_after_fork)
