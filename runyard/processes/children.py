"""What a worker's parent does for its child processes: renews their leases, kills hung ones.

A child renews its lease itself, but it cannot while a step holds the interpreter's lock. The
parent knows that the child is alive and that none of its steps has exceeded its timeout, so the
batch stays with the child however long it is silent.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil
from dagster import DagsterInstance

from runyard.dagster_adapter import hung_steps, reaper
from runyard.engine import batch_leases
from runyard.engine.activity import Activity, Work, expect_child
from runyard.engine.status import OPEN_BATCH
from runyard.engine.watchdog import CANCEL_SECONDS, Watchdog, without_lock_waiters
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all

_START_SECONDS = 60.0
# How long a run may take to stop: its threads get some seconds to end what they are doing.
_STOP_SECONDS = CANCEL_SECONDS + 10.0
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
# A stopped process (SIGSTOP) does nothing, and may never be continued.
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
_log = logging.getLogger("runyard.worker")


class Child:
    """One child process, from before its fork."""

    def __init__(self) -> None:
        self.watchdog = Watchdog(expect_child())
        self._created = time.monotonic()
        self._stopping: tuple[str, float] | None = None
        self._begun = ""

    @property
    def pid(self) -> int:
        """Its process id; 0 before it has started."""
        return self.watchdog.board.pid

    @property
    def gone(self) -> bool:
        """Whether it has ended, or never started."""
        if not self.pid:
            return time.monotonic() - self._created > _START_SECONDS
        status = _status(self.pid)
        return status is None or status in _ENDED

    def doing(self) -> Activity | None:
        """What it is doing; None when it has ended or is stopped."""
        status = _status(self.pid) if self.pid else None
        return None if status is None or status in _ENDED + _STOPPED else self.watchdog.board.read()

    def has_begun(self, batch: str, begun: bool) -> bool:
        """Whether its run has begun this batch, be it in a process of its own."""
        if begun:
            self._begun = batch
        return self._begun == batch

    def fails_to_stop(self, batch: str, stopped: bool) -> bool:
        """Whether it was told to stop long ago and still works on this batch."""
        if not stopped:
            self._stopping = None
        elif self._stopping is None or self._stopping[0] != batch:
            self._stopping = (batch, time.monotonic())
        return self._stopping is not None and time.monotonic() - self._stopping[1] >= _STOP_SECONDS


@dataclass(frozen=True)
class Killed:
    """A killed child: what it was doing, which items had hung, both in words, and when."""

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
        self._terminate: Callable[[int, int], object] = os.kill

    def kill_with(self, terminate: Callable[[int, int], object]) -> None:
        """Send signals to children with Celery's function, which takes their ends as intended.

        Otherwise it reports every child that we kill as a crash.
        """
        self._terminate = terminate

    def expect(self) -> None:
        """Register the child that is about to be forked; forks of children are ignored."""
        if os.getpid() != self._parent:
            return
        child = Child()
        with self._lock:
            self._children.append(child)

    @property
    def unsettled(self) -> set[str]:
        """The batches of killed children that are not settled yet."""
        return {killed.doing.batch for killed in self._killed}

    @property
    def working(self) -> int:
        """How many children execute a run of a function."""
        with self._lock:
            return sum(child.doing() is not None for child in self._children)

    def supervise(self) -> None:
        """Renew the children's leases and kill hung ones; called once a second."""
        with self._lock:
            self._children = [child for child in self._children if not child.gone]
            states = [(child, child.doing()) for child in self._children]
        working = [(child, doing) for child, doing in states if doing is not None]
        leases = self._renew([doing.batch for _, doing in working])
        self._settle_killed()
        for child, doing in working:
            lease = leases.get(doing.batch)
            if doing.starting_since:
                self._supervise_start(child, doing, lease)
                continue
            hung = child.watchdog.late(lease["cancelled"] if lease is not None else ())
            if hung is not None:
                self._kill_hung(child, *hung)
            elif child.fails_to_stop(doing.batch, lease is None or lease["stopped"]):
                self._kill_stopping(child, doing)

    def kill_working(self) -> None:
        """Kill children that still work: the worker stops, and their runs are handed back."""
        with self._lock:
            children = list(self._children)
        for child in children:
            doing = child.watchdog.board.read() if child.pid else None
            if doing is None:
                continue
            self._kill(child)
            if doing.starting_since:
                batch_leases.release(doing.batch, "claimed", "queued", attempts=1, force=True)

    def _supervise_start(self, child: Child, doing: Activity, lease: Row | None) -> None:
        """Kill a child whose run takes too long to begin its batch."""
        if child.has_begun(doing.batch, lease is not None and lease["begun"]):
            return
        if child.fails_to_stop(doing.batch, lease is None or lease["stopped"]):
            self._kill_stopping(child, doing)
        elif time.monotonic() - doing.starting_since >= doing.limit:
            _log.error("killed process %s: its run did not begin its batch", child.pid)
            self._kill(child)
            with DagsterInstance.get() as instance:
                reaper.run_never_began(instance, doing.batch, doing.run, doing.limit)
            batch_leases.mark_ended(doing.run)

    def _kill(self, child: Child) -> None:
        """Kill a child with all its descendants."""
        # It must not start another descendant, nor end before those that it has are found.
        with suppress(OSError):
            self._terminate(child.pid, signal.SIGSTOP)
        hung_steps.kill(child.pid)

    def _renew(self, batches: list[str]) -> dict[str, Row]:
        if not batches:
            return {}
        with database.connection() as connection:
            return {row["id"]: row for row in fetch_all(connection, "heartbeat", batches=batches)}

    def _kill_hung(self, child: Child, doing: Activity, late: Sequence[Work]) -> None:
        guilty = without_lock_waiters(child.pid, late)
        self._kill(child)
        # An item that ended at the last instant is not to blame.
        last = child.watchdog.board.read()
        if last is None:
            return
        guilty = [work for work in guilty if last.batch == doing.batch and work in last.work]
        if guilty:
            text = hung_steps.describe(last, guilty)
        else:
            text = f"a {hung_steps.describe(doing, late)}"
        _log.error("killed process %s: %s", child.pid, text)
        self._killed.append(Killed(last, guilty, text, time.monotonic()))
        self._settle_killed()

    def _settle_killed(self) -> None:
        """Settle the batches of killed children.

        When that fails for as long as a lease, the batch counts as crashed.
        """
        for killed in list(self._killed):
            try:
                hung_steps.settle(killed.doing, killed.late)
                with DagsterInstance.get() as instance:
                    hung_steps.report(instance, killed.doing.run, killed.text)
                batch_leases.mark_ended(killed.doing.run)
            except Exception as error:
                if time.monotonic() - killed.at <= settings().lease_seconds:
                    reason = type(error).__name__
                    _log.warning("run %s is not settled yet: %s", killed.doing.run, reason)
                    continue
            self._killed.remove(killed)

    def _kill_stopping(self, child: Child, doing: Activity) -> None:
        """Kill a child whose run was cancelled, or lost its batch, and does not end."""
        _log.error("killed process %s: its run was told to stop and did not end", child.pid)
        self._kill(child)
        batch = batch_leases.batch_of_run(doing.run, doing.batch)
        if batch is not None and batch["status"] in OPEN_BATCH:
            with DagsterInstance.get() as instance:
                cancelled = {**batch, "run_id": doing.run, "cancelled": True}
                reaper.reap(instance, [cancelled], force=True)


def _status(pid: int) -> str | None:
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return None
