"""Renews the leases of this process, once a second, from one thread.

The heartbeat also brings back three pieces of news: that a lease is gone, because another run has
the batch; which invocations were cancelled; and that the run was told to stop or has nothing left
to do. In the last case the main thread, which executes the run, is interrupted as by Ctrl-C; in a
process that executes many runs, each in a thread, only that run is told.

A child whose parent worker is gone ends itself, as nobody could stop it any more. No error ends the
heartbeat: whatever the database answers, it tries again.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from runyard.engine.activity import board
from runyard.engine.backoff import Backoff
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all

INTERVAL_SECONDS = 1.0
_log = logging.getLogger("runyard.engine.lease")
# Called with the leases after each heartbeat of a process that has no worker as its parent.
watchers: "list[Callable[[Mapping[str, Lease]], None]]" = []


@dataclass
class Lease:
    """A batch that a run of this process has.

    Attributes
    ----------
    batch_id, run_id
        The batch and the run.
    lost
        Set when another run has the batch.
    cancelled
        The invocations that have been cancelled meanwhile.
    interrupted
        Whether the run has been interrupted.
    stopped
        Set instead of an interrupt of the main thread, in a process of many runs.
    hung
        Which step hung, when the lease was given up for that.
    """

    batch_id: str
    run_id: str
    lost: threading.Event = field(default_factory=threading.Event)
    cancelled: set[int] = field(default_factory=set[int])
    interrupted: bool = False
    stopped: threading.Event = field(default_factory=threading.Event)
    hung: str | None = None
    _listeners: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @contextmanager
    def telling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call a function at each change of the lease inside of a `with` block, in any thread."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def lose(self) -> None:
        """Note that the batch is another run's, or that this one has given it up."""
        self.lost.set()
        self._tell()

    def stop(self) -> None:
        """Tell the run to stop."""
        self.stopped.set()
        self._tell()

    def cancel(self, invocations: Collection[int]) -> None:
        """Note which invocations have been cancelled."""
        if not self.cancelled.issuperset(invocations):
            self.cancelled.update(invocations)
            self._tell()

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()


class Heartbeat:
    """The thread that renews leases; one per process, started by its first lease.

    Attributes
    ----------
    parent
        The process id of this process's worker, if it has one.
    before_stop
        Called with a run's id before the run is interrupted: Dagster treats an interrupt that
        nobody announced as a failure.
    of_threads
        Whether each run of this process is executed in a thread of its own. To interrupt one is to
        set its lease's `stopped`.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.parent: int | None = None
        self.before_stop: Callable[[str], None] | None = None
        self.of_threads = False
        self._is_over = False

    def start(self, batch_id: str, run_id: str) -> Lease:
        """Start renewing the lease of a run."""
        lease = Lease(batch_id, run_id)
        if not self.of_threads:
            board().hold(batch_id, run_id)
        with self._changed:
            self._leases[batch_id] = lease
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._beat, name="runyard-heartbeat", daemon=True
                )
                self._thread.start()
            self._changed.notify()
        return lease

    def stop(self, batch_id: str) -> None:
        """Stop renewing a lease."""
        if not self.of_threads:
            board().drop(batch_id)
        with self._changed:
            self._leases.pop(batch_id, None)

    def end(self) -> None:
        """Renew no lease any more, nor learn anything about one: this process ends."""
        self._is_over = True

    def _beat(self) -> None:
        backoff = Backoff(_log, "no heartbeat", max_heartbeat_wait())
        pause = INTERVAL_SECONDS
        while not self._is_over:
            with self._changed:
                while not self._leases:
                    self._changed.wait()
                self._changed.wait(pause)
                leases = dict(self._leases)
            if self.parent is not None and os.getppid() != self.parent:
                _log.error("the worker of this process is gone: exiting")
                os._exit(1)
            try:
                if leases:
                    self._renew(leases)
                if leases and self.parent is None:
                    for watch in watchers:
                        watch(leases)
            except Exception as error:
                pause = backoff.failed(error)
            else:
                backoff.succeeded()
                pause = INTERVAL_SECONDS

    def _renew(self, leases: dict[str, Lease]) -> None:
        with database.connection() as connection:
            rows = fetch_all(connection, "heartbeat", batches=list(leases))
        alive = {row["id"]: row for row in rows}
        if self._is_over:
            return
        with self._changed:
            for batch_id, lease in leases.items():
                if batch_id not in self._leases:
                    continue
                if batch_id in alive:
                    self._apply(lease, alive[batch_id])
                else:
                    lease.lose()

    def _apply(self, lease: Lease, row: Row) -> None:
        stops = row["stopped"] and not lease.interrupted
        # Should this fail, the next heartbeat tries again: a run whose interrupt was not announced
        # would end as failed, not as cancelled. The run is told of nothing before: one whose
        # invocations are all cancelled ends at once, and announced afterwards it would seem to be
        # stopping for ever.
        if stops and self.before_stop is not None:
            self.before_stop(lease.run_id)
        lease.cancel(row["cancelled"])
        if not stops:
            return
        lease.interrupted = True
        if self.of_threads:
            lease.stop()
            return
        os.kill(os.getpid(), signal.SIGINT)


def max_heartbeat_wait() -> float:
    """Return the longest pause between heartbeats after errors: a sixth of the lease timeout."""
    return settings().lease_seconds / 6


heartbeat = Heartbeat()


def _after_fork() -> None:
    """Reset the heartbeat: a fork copies the object, but not its thread."""
    Heartbeat.__init__(heartbeat)


os.register_at_fork(after_in_child=_after_fork)
