"""What a process is doing, in memory that its parent can read: its batch, its step, its items.

A worker's parent creates this memory before it forks a child (`expect_child`), and the child writes
to it as it goes, for less than a microsecond an item. The parent can read it whatever the child
does, even while a step holds the interpreter lock or after the child has died. A process without
such a parent has memory of its own, which its heartbeat thread reads.

There are no locks: each field is written by one thread only, and a reader looks twice before it
acts.
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

# The memory holds numbers at fixed offsets, then JSON text (of the given length), then an entry
# for each item in progress: thread, invocation, start.
_NUMBER = struct.Struct("<q")
_ITEM = struct.Struct("<qd")
_WORK = struct.Struct("<qqd")
_PID, _PAUSED, _UNSAVED, _PLACES, _LENGTH, _TEXT = 0, 8, 16, 24, 32, 40
_FIRST_WORK = 8192
_SIZE = _FIRST_WORK + MAX_BATCH_SIZE * _WORK.size
_MAX_NAME = 512


@dataclass(frozen=True)
class Work:
    """An item in progress: the thread's system id, the invocation, and when it began."""

    thread: int
    invocation: int
    since: float


@dataclass(frozen=True)
class Activity:
    """What a process was doing when its board was read.

    Attributes
    ----------
    batch, run
        The batch that it has, and the run that works on it.
    step, op, limit
        The step, its op, and the timeout of an item in seconds; empty between steps.
    retry
        When an item that timed out is retried; None for never.
    single_call
        Whether all items are one call of the step.
    work
        The items in progress.
    unsaved
        Whether there are results that are not saved yet.
    starting_since
        When the run set out for its batch (resources are initialised, code is loaded), for which
        it has `limit` seconds. 0 when it has begun.
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
    starting_since: float = 0.0


class Board:
    """The shared memory of one process."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._held: dict[str, Any] = {}

    def start(self) -> None:
        """Record the id of this process."""
        self._set(_PID, os.getpid())

    def start_run(self, batch_id: str, run_id: str, limit: float) -> None:
        """Record a run that has not begun its batch yet, for which it has `limit` seconds."""
        since = time.monotonic()
        self._held = {"batch": batch_id, "run": run_id, "starting_since": since, "limit": limit}
        self._write(self._held)

    def hold(self, batch_id: str, run_id: str) -> None:
        """Record that a run of this process has a batch."""
        self._held = {"batch": batch_id, "run": run_id}
        self._write(self._held)

    def drop(self, batch_id: str) -> None:
        """Record that no run of this process has the batch any more."""
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
        """Record the beginning of a step that has up to `places` items in progress at a time."""
        self._clear()
        self._set(_PLACES, min(places, MAX_BATCH_SIZE))
        self.enter(0)
        self._write(
            {
                **self._held,
                "step": step,
                "op": op[:_MAX_NAME],
                "limit": limit,
                "retry": None if retry is None else _plain(retry),
                "single_call": single_call,
            }
        )

    def end_step(self) -> None:
        """Record the end of the step."""
        self._clear()
        if self._held:
            self._write(self._held)

    def enter(self, place: int) -> None:
        """Give this thread a place; it works on one item after the other there."""
        self._set(_FIRST_WORK + place * _WORK.size, threading.get_native_id())

    def begin(self, place: int, invocation: int) -> None:
        """Record the beginning of an item."""
        at = _FIRST_WORK + place * _WORK.size + _NUMBER.size
        _ITEM.pack_into(self._memory, at, invocation, time.monotonic())

    def end(self, place: int) -> None:
        """Record the end of the item at this place."""
        self._set(_FIRST_WORK + place * _WORK.size + _NUMBER.size, 0)

    def begin_all(self, invocations: Sequence[int]) -> None:
        """Record the beginning of a single call for all of these, in this thread."""
        thread, now = threading.get_native_id(), time.monotonic()
        for place, invocation in enumerate(invocations[:MAX_BATCH_SIZE]):
            _WORK.pack_into(self._memory, _FIRST_WORK + place * _WORK.size, thread, invocation, now)

    def end_all(self, count: int) -> None:
        """Record the end of a single call for `count` invocations."""
        for place in range(min(count, MAX_BATCH_SIZE)):
            self.end(place)

    @property
    def pid(self) -> int:
        """The id of the process; 0 before it has started."""
        return self._get(_PID)

    @property
    def paused(self) -> bool:
        """Whether no further item may begin; set by the process's watchdog."""
        return bool(self._get(_PAUSED))

    @paused.setter
    def paused(self, value: bool) -> None:
        self._set(_PAUSED, value)

    @property
    def unsaved(self) -> bool:
        """Whether there are results that are not saved yet."""
        return bool(self._get(_UNSAVED))

    @unsaved.setter
    def unsaved(self, value: bool) -> None:
        self._set(_UNSAVED, value)

    def read(self) -> Activity | None:
        """Return what the process is doing; None without a batch, or in the middle of a write."""
        length = self._get(_LENGTH)
        if not length:
            return None
        try:
            fields = json.loads(self._memory[_TEXT : _TEXT + length])
        except ValueError:
            return None
        rule = fields.get("retry")
        retry = Retry(rule["attempts"], tuple(rule["delays"]), rule["jitter"]) if rule else None
        return Activity(
            batch=fields["batch"],
            run=fields["run"],
            step=fields.get("step", ""),
            op=fields.get("op", ""),
            limit=fields.get("limit", 0.0),
            retry=retry,
            single_call=fields.get("single_call", False),
            work=tuple(work for work in self._entries() if work.invocation),
            unsaved=self.unsaved,
            starting_since=fields.get("starting_since", 0.0),
        )

    def _entries(self) -> Iterator[Work]:
        for place in range(self._get(_PLACES)):
            yield Work(*_WORK.unpack_from(self._memory, _FIRST_WORK + place * _WORK.size))

    def _write(self, fields: dict[str, Any]) -> None:
        text = json.dumps(fields, ensure_ascii=False).encode()
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
    """Return a rule without its exception types, which another process may be unable to load."""
    delays = retry.delays[:MAX_ATTEMPTS]
    return {"attempts": retry.attempts, "delays": delays, "jitter": retry.jitter}


_board: Board | None = None
_expected: Board | None = None


def board() -> Board:
    """Return this process's own board."""
    global _board
    if _board is None:
        _board = Board()
    return _board


def expect_child() -> Board:
    """Create the board of the child that this process forks next."""
    global _expected
    _expected = Board()
    return _expected


def _after_fork() -> None:
    """Give a child the board that its parent created for it, or later one of its own."""
    global _board, _expected
    _board, _expected = _expected, None
    if _board is not None:
        _board.start()


os.register_at_fork(after_in_child=_after_fork)
