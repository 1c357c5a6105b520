"""The maintenance services: what must be done now and then, whatever the functions do.

One process at a time does the maintenance, under an advisory lock: a thread of the daemon
(`runyard.processes.maintenance_thread`). Where that daemon does not run, as under stock
`dagster dev`, the sensor `runyard_maintenance` and the ticks of functions do it (`run_due`).
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dagster import DagsterInstance

from runyard.dagster_adapter import reaper
from runyard.dagster_adapter.tick_retention import TickRetention
from runyard.engine import batch_leases, housekeeping, tallies
from runyard.engine.backoff import Backoff
from runyard.errors import DatabaseUnavailable
from runyard.functions import registry
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_one

# Called only by services that have something to do: creating an instance costs several connections.
Instance = Callable[[], DagsterInstance]

_LONGEST_WAIT = 60.0
# How long a tick leaves the maintenance to another process that has the lock.
_ELSEWHERE_SECONDS = 5.0
_log = logging.getLogger("runyard.maintenance")


@dataclass(frozen=True)
class Service:
    """Something that is done regularly.

    Attributes
    ----------
    name
        What it is called in the log.
    did
        What it did, as the log puts it before a number: `invocations cancelled`.
    run
        Does it; returns how many times there was something to do.
    seconds
        Its interval.
    on_events
        Whether it is also due as soon as events arrive.
    """

    name: str
    did: str
    run: Callable[[Instance], int]
    seconds: Callable[[], float]
    on_events: bool = False


class ServiceSchedule:
    """Which of some services are due in this process; one thread at a time runs them."""

    def __init__(
        self, services: Sequence[Service], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._services = services
        self._clock = clock
        self._due = {service.name: 0.0 for service in services}
        self._errors = {
            service.name: Backoff(_log, f"{service.name} failed", _LONGEST_WAIT)
            for service in services
        }

    @property
    def is_for_events(self) -> bool:
        """Whether a service is due as soon as events arrive."""
        return any(service.on_events for service in self._services)

    def seconds_until_due(self) -> float:
        """Return how many seconds there are until the next service is due; not negative."""
        return max(0.0, min(self._due.values()) - self._clock())

    def postpone(self, seconds: float) -> None:
        """Let no service be due for so many seconds."""
        until = self._clock() + seconds
        self._due = {name: max(due, until) for name, due in self._due.items()}

    def run_due(self, instance: Instance, *, events: bool = False) -> list[str]:
        """Run what is due; return what was done, in words.

        An error of a service is logged, and the others run nevertheless. When there is no database,
        they stay due. `events` says that events may have arrived.
        """
        done: list[str] = []
        for service in self._services:
            if self._clock() < self._due[service.name] and not (events and service.on_events):
                continue
            try:
                count = service.run(instance)
            except Exception as error:
                self._put_off(service, error)
                if isinstance(error, DatabaseUnavailable):
                    break
                continue
            self._errors[service.name].succeeded()
            self._due[service.name] = self._clock() + service.seconds()
            if count:
                done.append(f"{service.name}: {service.did}: {count}")
                _log.info(done[-1])
        return done

    def _put_off(self, service: Service, error: Exception) -> None:
        wait = self._errors[service.name].failed(error)
        self._due[service.name] = self._clock() + max(wait, service.seconds())


def _every(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def _sixth_of_a_lease() -> float:
    return settings().lease_seconds / 6


def _release_overdue(instance: Instance) -> int:
    overdue = batch_leases.overdue()
    return reaper.reap(instance(), overdue) if overdue else 0


def _end_runs(instance: Instance) -> int:
    unended, unbegun = batch_leases.unended(), batch_leases.unbegun()
    if unended:
        reaper.end_runs(instance(), unended)
    cancelled = reaper.end_unbegun_runs(instance(), unbegun) if unbegun else 0
    return len(unended) + cancelled


def _fold_tallies(_: Instance) -> int:
    tallies.fold()
    return 0  # not worth a line in the log, a minute after anything has happened


# What comes first must not wait long for what comes after it.
SERVICES = (
    Service(
        "match_waits",
        "waits ended by events",
        lambda _: housekeeping.match_waits(),
        _every(1.0),
        on_events=True,
    ),
    Service(
        "reclaim_unlaunched",
        "claims without a run looked at",
        reaper.reclaim_unlaunched,
        _every(1.0),
    ),
    Service(
        "release_overdue", "batches of lost workers released", _release_overdue, _sixth_of_a_lease
    ),
    Service("end_runs", "runs without a process ended", _end_runs, _sixth_of_a_lease),
    Service(
        "cancel_timed_out",
        "invocations cancelled past their timeout",
        lambda _: housekeeping.expire(),
        _sixth_of_a_lease,
    ),
    Service(
        "apply_deferred_requests",
        "requests of SQL applied",
        lambda _: housekeeping.apply_deferred_requests(),
        _sixth_of_a_lease,
    ),
    Service(
        "catch_up",
        "restored functions whose missed events were looked for",
        lambda _: registry.catch_up(),
        _sixth_of_a_lease,
    ),
    Service(
        "rekey",
        "invocations given the keys of the present flow control",
        lambda _: registry.rekey(),
        _sixth_of_a_lease,
    ),
    Service(
        "fold_tallies",
        "rows of tallies added to the counters",
        _fold_tallies,
        _every(60.0),
    ),
    Service(
        "purge",
        "rows of ended flow control and waits deleted",
        lambda _: housekeeping.purge(),
        _every(300.0),
    ),
    Service(
        "purge_run_output",
        "pieces of the output of old runs deleted",
        lambda _: housekeeping.purge_run_output(),
        _every(60.0),
    ),
)


def services_of_the_daemon() -> tuple[Service, ...]:
    """All services, with those that Dagster's own daemon does in another way."""
    ticks = TickRetention()
    return (
        *SERVICES,
        Service(
            "purge_ticks",
            "ticks of sensors deleted",
            lambda instance: ticks.purge(instance()),
            _every(300.0),
        ),
    )


_schedule = ServiceSchedule(SERVICES)
_turn = threading.Lock()


def run_due(instance: Instance) -> list[str]:
    """Run what is due, unless another process or thread does the maintenance.

    Ticks of sensors call this as often as they like: in between it only compares times. Returns
    what was done, in words; raises `DatabaseUnavailable`.
    """
    if _schedule.seconds_until_due() > 0 or not _turn.acquire(blocking=False):
        return []
    try:
        with database.transaction() as connection:
            row = fetch_one(connection, "lock_maintenance_once")
            if row is not None and row["locked"]:
                return _schedule.run_due(instance)
        _schedule.postpone(_ELSEWHERE_SECONDS)
        return []
    finally:
        _turn.release()
