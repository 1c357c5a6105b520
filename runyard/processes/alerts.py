"""Tells the receivers of RUNYARD_ALERTS of what has failed for good: functions, and other runs.

One process at a time does it: a thread of the daemon, under a lock of its own, so that a receiver
that hangs holds up nothing else. Each receiver has its own ledger in the database, which is written
after a delivery: a daemon that is killed in between tells it again.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from dagster import DagsterInstance

from runyard.dagster_adapter.failed_runs import FailedRuns, last_failure
from runyard.dagster_adapter.maintenance import Instance, Service, ServiceSchedule
from runyard.engine.alert_ledger import RUNS, Ledger
from runyard.engine.backoff import Backoff
from runyard.errors import DatabaseUnavailable
from runyard.processes import alert_message
from runyard.processes.alert_delivery import deliver, name_of
from runyard.processes.alert_message import Failed
from runyard.processes.maintenance_thread import MaintenanceThread
from runyard.settings import settings

LOCK = "lock_alerts"
_INTERVAL_SECONDS = 5.0
_LONGEST_WAIT = 300.0
_log = logging.getLogger("runyard.alerts")


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

    def send(self, instance: DagsterInstance) -> int:
        """Tell every receiver what is new for it; return how many were told something.

        A receiver that cannot be reached is tried again later, with all that has failed by then.
        """
        told = 0
        for receiver in self._receivers:
            if self._clock() < self._not_before[receiver]:
                continue
            try:
                told += self._tell(receiver, instance)
            except DatabaseUnavailable:
                raise
            # Whatever it is, the other receivers are told.
            except Exception as error:
                wait = self._errors[receiver].failed(error)
                self._not_before[receiver] = self._clock() + wait
            else:
                self._errors[receiver].succeeded()
        return told

    def _tell(self, receiver: str, instance: DagsterInstance) -> bool:
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
            notify(receiver, failed, ledger.now)
            ledger.mark_told(functions, runs.last if jobs else None)
        if ledger.may_notify(RUNS):
            runs.pass_over()
            if not jobs:
                ledger.pass_over_runs(runs.last)
        return bool(failed)


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
