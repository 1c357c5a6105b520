"""Tells the receivers of RUNYARD_ALERTS of what has failed for good: functions, and other runs.

One process at a time does it: a thread of the daemon, under a lock of its own, so that a receiver
that hangs holds up nothing else. Each receiver has its own ledger in the database, which is written
after a delivery: a daemon that is killed in between tells it again. A delivery that takes longer
than is waited for goes on, and when it ends well the ledger is written too.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import psycopg
from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from runyard.dagster_adapter.failed_runs import FailedRuns, last_failure
from runyard.dagster_adapter.maintenance import Instance, Service, ServiceSchedule
from runyard.engine.alert_ledger import RUNS, FailedFunction, Ledger
from runyard.engine.backoff import Backoff
from runyard.errors import DatabaseUnavailable
from runyard.processes import alert_message
from runyard.processes.alert_delivery import AlertNotSent, StillSending, deliver, name_of
from runyard.processes.alert_message import Failed
from runyard.processes.maintenance_thread import MaintenanceThread
from runyard.settings import settings

LOCK = "lock_alerts"
_INTERVAL_SECONDS = 5.0
_LONGEST_WAIT = 300.0
_log = logging.getLogger("runyard.alerts")


@dataclass(frozen=True)
class _LateAlert:
    """An alert that was not delivered in time; what is to be done if it is delivered yet."""

    delivery: Future[None]
    mark_told: Callable[[], None]


class Alerts:
    """The alerts of this process.

    Parameters
    ----------
    receivers
        The addresses of the receivers.
    clock
        The time in seconds, for the waits after failed deliveries.
    """

    def __init__(
        self, receivers: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._receivers = receivers
        self._clock = clock
        self._errors = {
            receiver: Backoff(_log, f"no alert to {name_of(receiver)}", _LONGEST_WAIT)
            for receiver in receivers
        }
        self._not_before = dict.fromkeys(receivers, 0.0)
        self._failed_runs = {receiver: FailedRuns() for receiver in receivers}
        self._late: dict[str, _LateAlert] = {}

    def send(self, instance: DagsterInstance) -> int:
        """Tell every receiver what is new for it; return how many were told something.

        A receiver that cannot be reached is tried again later, with all that has failed by then.
        An error of our own tables or Dagster's is raised, when the other receivers have been told:
        it is no receiver's.
        """
        told = 0
        storage_error: Exception | None = None
        for receiver in self._receivers:
            if self._clock() < self._not_before[receiver]:
                continue
            try:
                told += self._tell(receiver, instance)
            except DatabaseUnavailable:
                raise
            except (psycopg.Error, SQLAlchemyError) as error:
                storage_error = error
            # Whatever it is, the other receivers are told.
            except Exception as error:
                wait = self._errors[receiver].failed(error)
                self._not_before[receiver] = self._clock() + wait
            else:
                self._errors[receiver].succeeded()
        if storage_error is not None:
            raise storage_error
        return told

    def _tell(self, receiver: str, instance: DagsterInstance) -> bool:
        was_told = self._was_told_late(receiver)
        ledger = Ledger(receiver)
        if ledger.is_new:
            ledger.begin(last_failure(instance))
            return False
        ledger.mark_looked()
        functions = ledger.failed_functions()
        runs, last = self._failed_runs[receiver], ledger.last_run_event
        jobs = runs.read(instance, last) if ledger.may_notify(RUNS) else []
        failed: list[Failed] = [*functions, *jobs]
        if failed:
            mark_told = partial(_mark_told, ledger, functions, runs, bool(jobs))
            try:
                notify(receiver, failed, ledger.now)
            except StillSending as error:
                self._late[receiver] = _LateAlert(error.delivery, mark_told)
                raise
            mark_told()
        if ledger.may_notify(RUNS):
            runs.pass_over()
            if not jobs:
                ledger.pass_over_runs(runs.last)
        return was_told or bool(failed)

    def _was_told_late(self, receiver: str) -> bool:
        """Whether an alert has been delivered since it was last waited for; it is marked as told.

        Raises `AlertNotSent` while it is on its way: there is no second one meanwhile.
        """
        late = self._late.get(receiver)
        if late is None:
            return False
        if not late.delivery.done():
            raise AlertNotSent(f"{name_of(receiver)} has not answered the last alert yet")
        is_delivered = late.delivery.exception() is None
        if is_delivered:
            late.mark_told()
        del self._late[receiver]
        return is_delivered


def _mark_told(
    ledger: Ledger, functions: list[FailedFunction], runs: FailedRuns, with_runs: bool
) -> None:
    """Remember that a receiver has been told of these, and of the runs that were read last."""
    ledger.mark_told(functions, runs.last if with_runs else None)
    runs.pass_over()


def notify(receiver: str, failed: Sequence[Failed], now: datetime) -> None:
    """Send a receiver an alert of these failures; raises `AlertNotSent`."""
    message = alert_message.text(failed, now)
    body = alert_message.as_json(message, failed)
    deliver(receiver, alert_message.subject(failed), message, body)


def alerts_thread(instance: DagsterInstance) -> MaintenanceThread | None:
    """The daemon's thread that sends alerts; None when there is nobody to tell."""
    receivers = settings().alert_receivers
    if not receivers:
        return None
    alerts = Alerts(receivers)

    def send(instance: Instance) -> int:
        return alerts.send(instance())

    service = Service("alerts", "receivers told of failures", send, lambda: _INTERVAL_SECONDS)
    return MaintenanceThread(instance, ServiceSchedule([service]), lock=LOCK, name="alerts")
