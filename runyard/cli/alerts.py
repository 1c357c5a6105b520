"""`runyard alerts`: try the receivers of alerts."""

import sys

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo
from runyard.errors import RunyardError


@click.group()
def alerts() -> None:
    """Alerts of failures, by webhook or mail (RUNYARD_ALERTS)."""


@alerts.command()
@reported
def test() -> None:
    """Send a test alert to every receiver.

    The exit code is 1 when a receiver cannot be reached.
    """
    from runyard import clock
    from runyard.engine.alert_ledger import FailedFunction
    from runyard.processes.alert_delivery import AlertNotSent, name_of
    from runyard.processes.alert_message import TEST
    from runyard.processes.alerts import notify
    from runyard.settings import settings

    receivers = settings().alert_receivers
    if not receivers:
        raise RunyardError(
            "nobody is told of failures: set RUNYARD_ALERTS to the URL of a webhook or to"
            " mailto:name@host, several separated by commas"
        )
    failed = [FailedFunction(TEST, 1, 1, clock.now(), "this is a test of `runyard alerts test`")]
    missed = 0
    for receiver in receivers:
        try:
            notify(receiver, failed, clock.now())
        except AlertNotSent as error:
            missed += 1
            echo(str(error), err=True)
        else:
            echo(f"sent to {name_of(receiver)}")
    sys.exit(1 if missed else 0)
