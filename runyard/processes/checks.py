"""What is up and what is not: the checks behind `runyard doctor`, `/readyz` and the start of the stack."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from dagster import DagsterInstance

from runyard.dagster_adapter.internals import get_daemon_statuses
from runyard.engine import api_keys
from runyard.errors import RunyardError
from runyard.processes.migrate import POOLER, check_migrated
from runyard.processes.web_probe import web_answers
from runyard.settings import settings
from runyard.store import database
from runyard.store.embedded import why_elsewhere
from runyard.store.queries import fetch_all, fetch_one


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was looked at, whether it is well, and what was found or is to be done."""

    name: str
    ok: bool
    says: str


def checks() -> list[Check]:
    """All checks; those that need the database are not tried when it is away."""
    found = [_check("database", _database)]
    needing = [
        ("migrations", _migrations),
        ("workers", _workers),
        ("daemon", _daemon),
        ("keys", _keys),
    ]
    for name, look in needing:
        found.append(
            _check(name, look)
            if found[0].ok
            else Check(name, False, "cannot be told without the database")
        )
    return [*found, _check("broker", _broker)]


def all_checks() -> list[Check]:
    """The engine's checks, then the project's own (RUNYARD_CHECKS)."""
    project = settings().project_module("checks")
    return [*checks(), *(project.checks() if project is not None else ())]


def not_ready(parts: Sequence[str]) -> list[str]:
    """What keeps these parts of the stack from taking work, empty when nothing does."""
    problems: list[str] = []
    if "web" in parts and not web_answers():
        problems.append("web does not answer")
    for part, look in (("worker", _workers), ("daemon", _daemon)):
        if part in parts:
            check = _check(part, look)
            if not check.ok:
                problems.append(f"{part}: {check.says}")
    return problems


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except RunyardError as error:
        return Check(name, False, str(error))


def _database() -> str:
    _say_what_refuses()
    with database.connection() as connection:
        row = connection.execute("SELECT current_setting('server_version') AS version").fetchone()
    kind = "embedded" if database.is_embedded(settings()) else "DATABASE_URL"
    place = why_elsewhere(settings())
    return (
        f"PostgreSQL {row['version'] if row else '?'} at {database.where(database.database_url())} ({kind})"
        + (f"; {place}" if place else "")
    )


def _say_what_refuses() -> None:
    """Raise `RunyardError` where a pooler refuses every connection, which the pool of connections only knows as silence."""
    try:
        psycopg.connect(database.database_url(), connect_timeout=3).close()
    except psycopg.OperationalError as error:
        if database.leads_to_a_pooler(error):
            raise RunyardError(POOLER) from None


def _migrations() -> str:
    check_migrated()
    with database.connection() as connection:
        row = fetch_one(connection, "from_another_cluster")
    if row is not None and row["moved"]:
        raise RunyardError(
            "the tables came from another PostgreSQL cluster, and what waits for events would not see them: run `runyard migrate`"
        )
    return "every schema is at the version that the code wants"


def _broker() -> str:
    from kombu.connection import Connection

    from runyard.dagster_adapter.broker import QUEUE, broker_url, send_and_receive

    if settings().broker_url is not None:
        send_and_receive()
        return f"{Connection(broker_url()).as_uri()}, a message went through it and back"
    folder = settings().broker_dir / "queue"
    if not os.access(folder if folder.exists() else settings().home, os.W_OK):
        raise RunyardError(
            f"{folder} cannot be written: give this user the right, or set RUNYARD_DATA_DIR"
        )
    send_and_receive()
    waiting = len(list(folder.glob(f"*.{QUEUE}.msg")))
    return f"files in {folder.parent}, {waiting} runs waiting, a message went through them and back"


def _workers() -> str:
    with database.connection() as connection:
        rows = fetch_all(connection, "workers")
    alive = [row for row in rows if row["silent"] < settings().lease_seconds]
    if not alive:
        raise RunyardError(
            "no warm worker is alive: start one with `runyard worker` (or all with `runyard up`); until then every run starts a process of its own"
        )
    return f"{len(alive)} alive, {sum(row['slots'] for row in alive)} runs at a time"


def _daemon() -> str:
    os.environ.setdefault("DAGSTER_HOME", str(settings().home))
    os.environ["DATABASE_URL"] = (
        database.database_url()
    )  # what was given, with what every connection needs
    with DagsterInstance.get() as instance:
        statuses = get_daemon_statuses(instance, ["SENSOR"], ignore_errors=True)
    if not statuses["SENSOR"].healthy:
        raise RunyardError(
            "the Dagster daemon gives no heartbeat: start it with `runyard daemon` (or all with `runyard up`)"
        )
    return "its sensor loop is alive"


def _keys() -> str:
    valid = len(api_keys.valid())
    if not valid and not settings().loopback_only:
        raise RunyardError(
            "RUNYARD_HOST can be reached from outside and there is no key: make one with `runyard keys create NAME --scope send`"
        )
    none_needed = "; the web process listens on this machine alone, and asks for none unless it runs with --api-only"
    return f"{valid} valid in the environment {settings().environment}{none_needed if settings().loopback_only else ''}"
