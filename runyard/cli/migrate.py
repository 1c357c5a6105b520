"""`runyard migrate`: brings all tables up to date, or says what that needs."""

import click

from runyard.cli.errors import reported
from runyard.cli.terminal import echo, log_as_json_if_set
from runyard.errors import DatabaseUnavailable
from runyard.settings import settings
from runyard.store.migration_needs import LOCK_WAIT

UNREACHABLE = 6


@click.command()
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Change nothing: print what is pending, and what each migration needs.",
)
@click.option(
    "--lock-wait",
    type=click.FloatRange(min=0),
    default=LOCK_WAIT,
    show_default=True,
    metavar="SECONDS",
    help="How long to try again while other transactions hold a lock that a migration needs.",
)
@reported
def migrate(only_check: bool, lock_wait: float) -> int:
    """Bring all tables up to date.

    These are the engine's, the project's and Dagster's. Without DATABASE_URL this starts the
    embedded database, which runs until `runyard down`.

    With --check it exits with 0 when the database is up to date, 3 when migrations are pending, 4
    when a newer version has migrated it and this one goes on, 5 when this one cannot, and 6 when
    there is no database or it does not answer.
    """
    log_as_json_if_set()
    if only_check:
        return _check()
    _migrate(lock_wait)
    return 0


def _check() -> int:
    from runyard.processes.pending import pending_report

    try:
        report = pending_report()
    except DatabaseUnavailable as error:
        echo(f"runyard: {error}", err=True)
        return UNREACHABLE
    for line in report.lines:
        echo(line)
    return report.verdict


def _migrate(lock_wait: float) -> None:
    from runyard.processes.migrate import migrate as bring_up_to_date
    from runyard.processes.project import check_project
    from runyard.processes.stack import start_database
    from runyard.store.database import is_embedded

    if is_embedded(settings()):
        check_project()
    start_database(settings())
    if is_embedded(settings()):
        place = settings().postgres_dir
        echo(f"database: embedded, in {place}; it runs until `runyard down`")
    for line in bring_up_to_date(lock_wait):
        echo(line)
