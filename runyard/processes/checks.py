"""The health checks behind `runyard doctor`, `/readyz` and the start of the stack."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from dagster import DagsterInstance
from sqlalchemy.exc import SQLAlchemyError

from runyard.dagster_adapter import failed_ticks
from runyard.dagster_adapter.internals import get_daemon_statuses
from runyard.dagster_adapter.storage_place import check_storage
from runyard.engine import api_keys
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.functions import registry
from runyard.processes.code_check import check_code, remembered_problem
from runyard.processes.open_files import low_limit
from runyard.processes.schema_check import check_migrated
from runyard.processes.stack_files import code_server_answers, stack_workspace
from runyard.processes.web_probe import web_answers
from runyard.settings import settings
from runyard.store import database
from runyard.store.embedded import why_elsewhere
from runyard.store.queries import fetch_all, fetch_one
from runyard.store.unreachable import why_no_connection
from runyard.text.error_text import message_of, type_of


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was checked, whether it is healthy, and details or a fix."""

    name: str
    ok: bool
    says: str


def checks() -> list[Check]:
    """The engine's checks; those that need the database are skipped when it is unreachable."""
    results = _with_database(_NEED_DATABASE)
    return [*results, _check("broker", _broker), _check("code server", _code_server)]


def serving_checks() -> list[Check]:
    """The checks of what a web process needs to accept events: the others only delay them."""
    return _with_database({name: _NEED_DATABASE[name] for name in _SERVING})


def _with_database(needing: Mapping[str, Callable[[], str]]) -> list[Check]:
    database_check = _check("database", _database)
    results = [database_check]
    for name, check in needing.items():
        if database_check.ok:
            results.append(_check(name, check))
        else:
            results.append(Check(name, False, "cannot be checked without the database"))
    return results


def all_checks(*, load_code: bool = False) -> list[Check]:
    """The engine's checks, that of the project's code, then the project's own (RUNYARD_CHECKS).

    With `load_code` the code is loaded in another process, which takes a second or two. Without it
    the check is what is remembered of the last time when the code was to be loaded.
    """
    code = _check("code", _load_code if load_code else _remembered_code)
    results = [*checks(), code]
    try:
        project = settings().project_module("checks")
    except Exception:
        if code.ok:
            raise
        return results
    return [*results, *(project.checks() if project is not None else ())]


def not_ready(parts: Sequence[str]) -> list[str]:
    """What keeps these parts of the stack from accepting work; empty when they are ready."""
    problems: list[str] = []
    if "web" in parts and not web_answers():
        problems.append("web does not answer")
    for part, check in (("worker", _workers), ("daemon", _daemon)):
        if part in parts:
            result = _check(part, check)
            if not result.ok:
                problems.append(f"{part}: {result.says}")
    return problems


def _check(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except RunyardError as error:
        return Check(name, False, str(error))
    # A check that cannot be made has failed: `/metrics` and `/readyz` show all of them in any case.
    except Exception as error:
        return Check(name, False, f"{type_of(error)}: {message_of(error)}")


def _load_code() -> str:
    check = check_code()
    if check.problem is not None:
        raise RunyardError(f"the code does not load: {check.problem}")
    # Without the database, or before its migration, other checks say so.
    with suppress(DatabaseUnavailable, psycopg.errors.UndefinedTable):
        registry.check_names(check.functions)
    count = len(check.functions)
    return f"{settings().code} loads, with {count} function{'' if count == 1 else 's'}"


def _remembered_code() -> str:
    problem = remembered_problem()
    if problem is not None:
        raise RunyardError(
            f"the code does not load: {problem}; the last version that loaded is running"
        )
    return f"{settings().code} has loaded"


def _database() -> str:
    _connect()
    with database.connection() as connection:
        row = connection.execute("SELECT current_setting('server_version') AS version").fetchone()
    version = row["version"] if row else "?"
    kind = "embedded" if database.is_embedded(settings()) else "DATABASE_URL"
    place = why_elsewhere(settings())
    where = database.where(database.database_url())
    return f"PostgreSQL {version} at {where} ({kind})" + (f"; {place}" if place else "")


def _connect() -> None:
    """Raise `RunyardError` with the reason when no connection is made: the pool sees a timeout."""
    try:
        psycopg.connect(database.database_url(), connect_timeout=3).close()
    except psycopg.OperationalError as error:
        raise RunyardError(why_no_connection(error)) from None


def _migrations() -> str:
    newer = check_migrated()
    with database.connection() as connection:
        row = fetch_one(connection, "from_another_cluster")
    if row is not None and row["moved"]:
        raise RunyardError(
            "the tables were copied from another PostgreSQL cluster, so invocations that wait for"
            " events would not see them: run `runyard migrate`"
        )
    return "; ".join(newer) or "every schema is at the version that the code needs"


def _broker() -> str:
    from kombu.connection import Connection

    from runyard.dagster_adapter.broker import QUEUE, broker_url, send_and_receive

    if settings().broker_url is not None:
        send_and_receive()
        return f"{Connection(broker_url()).as_uri()}, a message went through it and back"
    folder = settings().broker_dir / "queue"
    present = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(present, os.W_OK):
        raise RunyardError(
            f"{folder} is not writable: give this user permission, or set RUNYARD_DATA_DIR"
        )
    send_and_receive()
    waiting = len(list(folder.glob(f"*.{QUEUE}.msg")))
    return f"files in {folder.parent}, {waiting} runs waiting, a message went through them and back"


def _code_server() -> str:
    if not stack_workspace().exists():
        return "not of `runyard up`: the workspace file says where it is"
    if not code_server_answers():
        raise RunyardError(
            "the code server does not answer, and no function is started without it: see what it"
            f" says in the terminal of `runyard up`, or in {settings().data / 'stack.log'}"
        )
    return "answers"


def _workers() -> str:
    with database.connection() as connection:
        rows = fetch_all(connection, "workers")
    heard = [row for row in rows if row["silent"] < settings().lease_seconds]
    alive = [row for row in heard if not row["remote"]]
    remote = sum(row["slots"] for row in heard if row["remote"])
    if not alive:
        raise RunyardError(
            "no warm worker is alive: start one with `runyard worker` (or everything with"
            " `runyard up`); until then every run starts a process of its own"
        )
    says = f"{len(alive)} alive, {sum(row['slots'] for row in alive)} runs at a time"
    return f"{says}; {remote} of functions of applications{_few_files()}" if remote else says


def _few_files() -> str:
    limit = low_limit()
    if limit is None:
        return ""
    return (
        f", but with at most {limit} open files, and each call is one: raise the hard limit with"
        " `ulimit -Hn`, or LimitNOFILE of systemd"
    )


def check_dagster_storage() -> str:
    """Raise `RunyardError` unless Dagster's storage is in the database of DATABASE_URL."""
    try:
        with _instance() as instance:
            check_storage(instance)
    except SQLAlchemyError as error:
        raise RunyardError(
            "the database that dagster.yaml names for Dagster's storage does not answer"
            f" ({type(error).__name__}): check the URLs in it"
        ) from None
    return "where the events are"


def _instance() -> DagsterInstance:
    os.environ.setdefault("DAGSTER_HOME", str(settings().home))
    # Adds the parameters that every connection needs.
    os.environ["DATABASE_URL"] = database.database_url()
    return DagsterInstance.get()


def _daemon() -> str:
    with _instance() as instance:
        statuses = get_daemon_statuses(instance, ["SENSOR"], ignore_errors=True)
    if not statuses["SENSOR"].healthy:
        raise RunyardError(
            "the Dagster daemon sends no heartbeat: start it with `runyard daemon`"
            " (or everything with `runyard up`)"
        )
    return "its sensor loop is alive"


def _sensors() -> str:
    errors = failed_ticks.recent()
    if errors:
        first = " ".join(errors[0].split())
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise RunyardError(f"a tick failed, see the sensor's page in the Dagster UI: {first}{more}")
    return "no tick has failed in the last two minutes"


def _keys() -> str:
    valid = len(api_keys.valid())
    summary = f"{valid} valid in the environment {settings().environment}"
    if settings().loopback_only:
        return (
            f"{summary}; the web process listens on this machine alone,"
            " and asks for none unless it runs with --api-only"
        )
    if not valid:
        raise RunyardError(
            "RUNYARD_HOST is reachable from outside and there is no key:"
            " create one with `runyard keys create NAME --scope send`"
        )
    return summary


_NEED_DATABASE: dict[str, Callable[[], str]] = {
    "migrations": _migrations,
    "storage": check_dagster_storage,
    "workers": _workers,
    "daemon": _daemon,
    "sensors": _sensors,
    "keys": _keys,
}
_SERVING = ("migrations", "keys")
