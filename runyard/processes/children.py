"""What a worker's parent does for its children: it renews their leases, and ends those that hang.

A child renews its lease itself, too, but cannot while a step holds the interpreter's lock. The
parent knows that it lives, and that no step of it is past its time: then its batch stays its own,
however long it says nothing.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from dagster import DagsterInstance

from runyard.dagster_adapter import hung_steps, reaper
from runyard.engine import dispatch
from runyard.engine.activity import Activity, Work, expect_child
from runyard.engine.status import OPEN_BATCH
from runyard.engine.watchdog import CANCEL_SECONDS, Watchdog, without_lock_waiters
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all

_START_SECONDS = 60.0
# A run that was told to stop may take so long: its threads have some seconds for what is under way.
_STOP_SECONDS = CANCEL_SECONDS + 10.0
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
# A process that is stopped (SIGSTOP) works on nothing, and may never be continued.
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
_log = logging.getLogger("runyard.worker")


class Child:
    """One child process, from before its fork."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(expect_child())
        self._made = time.monotonic()
        self._stopped: tuple[str, float] | None = None
        self._begun = ""

    @property
    def pid(self) -> int:
        """Its process; 0 before it has started."""
        return self.watchdog.board.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended, or never came to be."""
        if not self.pid:
            return time.monotonic() - self._made > _START_SECONDS
        status = _status(self.pid)
        return status is None or status in _ENDED

    def doing(self) -> Activity | None:
        """What it does, while it can do anything."""
        status = _status(self.pid) if self.pid else None
        return None if status is None or status in _ENDED + _STOPPED else self.watchdog.board.read()

    def has_begun(self, batch: str, begun: bool) -> bool:
        """Whether the batch that it was on its way to was ever begun, be it in a process of its own."""
        if begun:
            self._begun = batch
        return self._begun == batch

    def does_not_stop(self, batch: str, stopped: bool) -> bool:
        """Whether it was told long ago to stop with this batch, and still has it."""
        if not stopped:
            self._stopped = None
        elif self._stopped is None or self._stopped[0] != batch:
            self._stopped = (batch, time.monotonic())
        return self._stopped is not None and time.monotonic() - self._stopped[1] >= _STOP_SECONDS


@dataclass(frozen=True)
class Killed:
    """A child that was killed: what it did, what of that was late, in words too, and when."""

    doing: Activity
    late: Sequence[Work]
    text: str
    at: float


class Children:
    """The children of this worker."""

    def __init__(self) -> None:
        self._parent = os.getpid()
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._killed: list[Killed] = []

    def expect(self) -> None:
        """Another one is about to be forked; what a child forks is none of ours."""
        if os.getpid() != self._parent:
            return
        child = Child()
        with self._lock:
            self._children.append(child)

    @property
    def accounted_for(self) -> set[str]:
        """The batches of children that were killed, which are yet to be settled."""
        return {killed.doing.batch for killed in self._killed}

    def look_after(self) -> None:
        """Renew their leases, and end those that hang; once a second."""
        with self._lock:
            self._children = [child for child in self._children if not child.gone]
            states = [(child, child.doing()) for child in self._children]
        working = [(child, doing) for child, doing in states if doing is not None]
        leases = self._renew([doing.batch for _, doing in working])
        self._settle()
        for child, doing in working:
            lease = leases.get(doing.batch)
            if doing.starting_since:
                self._look_after_start(child, doing, lease)
                continue
            found = child.watchdog.late(lease["cancelled"] if lease is not None else ())
            if found is not None:
                self._end(child, *found)
            elif child.does_not_stop(doing.batch, lease is None or lease["stopped"]):
                self._stop(child, doing)

    def kill_working(self) -> None:
        """Kill those still at work: the worker stops, and what they do has been handed back."""
        with self._lock:
            children = list(self._children)
        for child in children:
            doing = child.watchdog.board.read() if child.pid else None
            if doing is None:
                continue
            hung_steps.kill(child.pid)
            if doing.starting_since:
                dispatch.release(doing.batch, "claimed", "queued", attempts=1, force=True)

    def _look_after_start(self, child: Child, doing: Activity, lease: Row | None) -> None:
        if child.has_begun(doing.batch, lease is not None and lease["begun"]):
            return
        if child.does_not_stop(doing.batch, lease is None or lease["stopped"]):
            self._stop(child, doing)
        elif time.monotonic() - doing.starting_since >= doing.limit:
            _log.error("process %s was killed: its run did not come to its batch", child.pid)
            hung_steps.kill(child.pid)
            with DagsterInstance.get() as instance:
                reaper.never_began(instance, doing.batch, doing.run, doing.limit)
            dispatch.mark_ended(doing.run)

    def _renew(self, batches: list[str]) -> dict[str, Row]:
        if not batches:
            return {}
        with database.connection() as connection:
            return {row["id"]: row for row in fetch_all(connection, "heartbeat", batches=batches)}

    def _end(self, child: Child, doing: Activity, late: Sequence[Work]) -> None:
        guilty = without_lock_waiters(child.pid, late)
        hung_steps.kill(child.pid)
        # What it has ended at the last moment is none of its faults.
        last = child.watchdog.board.read()
        if last is None:
            return
        guilty = [work for work in guilty if last.batch == doing.batch and work in last.work]
        text = (
            hung_steps.described(last, guilty)
            if guilty
            else f"a {hung_steps.described(doing, late)}"
        )
        _log.error("process %s was killed: %s", child.pid, text)
        self._killed.append(Killed(last, guilty, text, time.monotonic()))
        self._settle()

    def _settle(self) -> None:
        """Settle what was killed; it counts as crashed when that fails for as long as a lease."""
        for killed in list(self._killed):
            try:
                hung_steps.settle(killed.doing, killed.late)
                with DagsterInstance.get() as instance:
                    hung_steps.report(instance, killed.doing.run, killed.text)
                dispatch.mark_ended(killed.doing.run)
            except Exception as error:
                if time.monotonic() - killed.at <= settings().lease_seconds:
                    reason = type(error).__name__
                    _log.warning("run %s is not settled yet: %s", killed.doing.run, reason)
                    continue
            self._killed.remove(killed)

    def _stop(self, child: Child, doing: Activity) -> None:
        """A run that was cancelled, or whose batch another run has, does not end: end it here."""
        _log.error("process %s was killed: its run was to stop and did not end", child.pid)
        hung_steps.kill(child.pid)
        batch = dispatch.batch_of_run(doing.run, doing.batch)
        if batch is not None and batch["status"] in OPEN_BATCH:
            with DagsterInstance.get() as instance:
                cancelled = {**batch, "run_id": doing.run, "cancelled": True}
                reaper.free(instance, [cancelled], force=True)


def _status(pid: int) -> str | None:
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return None
