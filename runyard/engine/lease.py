"""Renews the leases that this process holds, once a second, from one thread.

The same heartbeat brings back three words: that a lease is gone (another run has the batch), which invocations were cancelled, and that the run
was told to stop or has nothing left to do (then the main thread, which executes it, is interrupted as by Ctrl-C). A child whose parent worker is gone
ends itself: nothing may go on working that nobody can stop. No error ends the heartbeat: whatever the database answers, it is tried again.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runyard.engine.activity import board
from runyard.engine.backoff import Backoff
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_all

INTERVAL_SECONDS = 1.0
_log = logging.getLogger("runyard.engine.lease")
# Called with the leases after each heartbeat of a process that has no worker to watch over it.
watchers: "list[Callable[[Mapping[str, Lease]], None]]" = []


@dataclass
class Lease:
    """A held batch.

    `lost` is set when another run has it, and `hung` says then which step did not end, where that is
    why; `cancelled` holds the invocations that were cancelled meanwhile.
    """

    batch_id: str
    run_id: str
    lost: threading.Event = field(default_factory=threading.Event)
    cancelled: set[int] = field(default_factory=set[int])
    interrupted: bool = False
    hung: str | None = None


class Heartbeat:
    """The thread that renews leases; one a process, started by its first lease.

    `before_stop` is called with a run's id before it is interrupted: Dagster takes an interrupt that nobody announced for a failure.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.parent: int | None = None
        self.before_stop: Callable[[str], None] | None = None

    def start(self, batch_id: str, run_id: str) -> Lease:
        """Begin to renew the lease of a run."""
        lease = Lease(batch_id, run_id)
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
        board().drop(batch_id)
        with self._changed:
            self._leases.pop(batch_id, None)

    def _beat(self) -> None:
        backoff = Backoff(_log, "no heartbeat", max_heartbeat_wait())
        pause = INTERVAL_SECONDS
        while True:
            with self._changed:
                while not self._leases:
                    self._changed.wait()
                self._changed.wait(pause)
                held = dict(self._leases)
            if self.parent is not None and os.getppid() != self.parent:
                _log.error("the worker that this process belongs to is gone: ending")
                os._exit(1)
            try:
                if held:
                    self._renew(held)
                if held and self.parent is None:
                    for watch in watchers:
                        watch(held)
            except Exception as error:
                pause = backoff.failed(error)
            else:
                backoff.succeeded()
                pause = INTERVAL_SECONDS

    def _renew(self, held: dict[str, Lease]) -> None:
        with database.connection() as connection:
            alive = {
                row["id"]: row for row in fetch_all(connection, "heartbeat", batches=list(held))
            }
        with self._changed:
            for batch_id, lease in held.items():
                if batch_id not in self._leases:
                    continue
                if batch_id not in alive:
                    lease.lost.set()
                    continue
                lease.cancelled.update(alive[batch_id]["cancelled"])
                if alive[batch_id]["stopped"] and not lease.interrupted:
                    # Should this fail, the next beat does it: a run that nobody announced would end as failed, not as cancelled.
                    if self.before_stop is not None:
                        self.before_stop(lease.run_id)
                    lease.interrupted = True
                    os.kill(os.getpid(), signal.SIGINT)


def max_heartbeat_wait() -> float:
    """The longest that a heartbeat may wait after errors, in seconds: a sixth of the silence that costs a lease."""
    return settings().lease_seconds / 6


heartbeat = Heartbeat()


def _after_fork() -> None:
    """A fork takes the object, not its thread."""
    Heartbeat.__init__(heartbeat)


os.register_at_fork(after_in_child=_after_fork)
