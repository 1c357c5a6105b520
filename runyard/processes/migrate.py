"""Brings the tables of the engine, of the project and of Dagster up to date, under one lock.

Processes that start while another one migrates wait for it, and nothing else in the stack starts
before it is done. Migrations connect to the server itself if DATABASE_URL leads to a pooler. The
lock is held by a transaction, so that it ends with its connection in any case.

Each migration is a transaction of its own. It waits only briefly for the lock of a table, because
all that comes after it waits behind it; then it lets them pass, and tries again later.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from alembic import command
from sqlalchemy import Connection, text

from runyard.dagster_adapter.internals import create_dagster_tables
from runyard.errors import RunyardError, SchemaUnusable
from runyard.processes.schema_check import (
    DAGSTER,
    Migrations,
    all_migrations,
    check_pooler,
    connect,
    own_migrations,
)
from runyard.store.database import direct_url, is_pooled
from runyard.store.migration_needs import LOCK_WAIT
from runyard.store.schema_state import REFUSED, Compatibility, SchemaState

_LOCK = 8_290_001
_LOCK_TIMEOUT = "2s"
_LOOK_SECONDS = 0.5
_PAUSE_SECONDS = 3.0
_LOCK_NOT_AVAILABLE = "55P03"
_log = logging.getLogger("runyard.migrate")
Result = TypeVar("Result")
# Who holds the lock that only a migration takes.
_OTHER_MIGRATION = """
    SELECT format('process %s of the database, from %s, since %s', pid,
        coalesce(host(client_addr), 'this host'), to_char(xact_start, 'HH24:MI:SS')) AS other
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = :key
        AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# The longest of the transactions that hold locks on tables; maintenance gives way by itself.
_OLDEST_TRANSACTION = """
    SELECT pid, format('process %s (%s, user %s, %s) has held locks for %s s', pid,
        coalesce(nullif(application_name, ''), 'no name'), usename, state,
        extract(epoch FROM now() - xact_start)::bigint) AS holder
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
        AND EXISTS (
            SELECT FROM pg_locks JOIN pg_class ON pg_class.oid = pg_locks.relation
            WHERE pg_locks.pid = pg_stat_activity.pid AND granted
                AND relnamespace <> 'pg_catalog'::regnamespace)
    ORDER BY xact_start LIMIT 1
"""
# Where Dagster's tables would be created, whether this role may create them, and where they exist
# already. Another application may have a table of one of these names, but not of both.
_DAGSTER_TABLES = """
    SELECT current_user AS role, current_schema() AS here,
        has_schema_privilege(current_schema(), 'CREATE') AS may_create,
        ARRAY(
            SELECT relnamespace::regnamespace::text FROM pg_class
            WHERE relkind = 'r' AND relname IN ('event_logs', 'secondary_indexes')
            GROUP BY relnamespace HAVING count(*) = 2
        ) AS existing,
        to_regclass('runyard.alembic_version') IS NOT NULL AS migrated_before
"""


def migrate(lock_wait: float = LOCK_WAIT) -> list[str]:
    """Bring every schema up to date; return a line for each with its version before and after.

    A schema that a newer version has made stays as it is when this code works on it.

    Parameters
    ----------
    lock_wait
        For how many seconds a migration is tried again when other transactions hold its tables.

    Raises
    ------
    SchemaUnusable
        This code does not work on a schema. Nothing was changed.
    RunyardError
        Dagster's tables cannot be created in the right place, or a migration did not get its locks.
    """
    with connect() as guard, connect() as connection:
        _lock_out_others(guard)
        _set_timeouts(connection)
        _check_dagster_schema(connection)
        states = {each: each.state(connection) for each in all_migrations()}
        for state in states.values():
            if state.compatibility in REFUSED:
                raise SchemaUnusable(state.describe())
        locks = _Locks(connection, time.monotonic() + lock_wait)
        done = []
        for migrations in own_migrations():
            upgrade = partial(_upgrade, connection, migrations, states[migrations])
            done.append(locks.taken(migrations.schema, upgrade))
        done += locks.taken("runyard", partial(_adopt_cluster, connection))
        done.append(locks.taken("dagster", partial(_upgrade_dagster, states[DAGSTER])))
    if is_pooled():
        check_pooler()
    return done


def _lock_out_others(guard: Connection) -> None:
    """Take the lock of migrations for a transaction; say so when another one has it.

    An index that is built concurrently waits for every older snapshot. So the lock is asked for
    again and again, rather than by a statement that waits; and without parameters, because a
    statement that has some keeps its snapshot until the next one.
    """
    guard.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    has_said = False
    take = text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")
    while not guard.execute(take).scalar():
        if not has_said:
            other = guard.execute(text(_OTHER_MIGRATION), {"key": _LOCK}).scalar()
            _log.warning("another migration is running (%s): waiting for its end", other)
            has_said = True
        time.sleep(_LOOK_SECONDS)


def _set_timeouts(connection: Connection) -> None:
    """Let a session wait briefly for locks, and work as long as its process is there."""
    connection.execute(
        text(
            f"SET lock_timeout = '{_LOCK_TIMEOUT}'; SET statement_timeout = 0;"
            "SET client_connection_check_interval = '1s'"
        )
    )
    connection.commit()


def _upgrade(connection: Connection, migrations: Migrations, before: SchemaState) -> str:
    """Run the migrations that are pending; return the line about it."""
    schema = migrations.schema
    if before.compatibility is Compatibility.AHEAD:
        return f"{schema}: stays as it is: {before.describe()}"
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
    connection.commit()
    command.upgrade(migrations.config(connection), "head")
    connection.commit()
    return f"{schema}: {before.current or 'empty'} -> {before.needed}"


def _adopt_cluster(connection: Connection) -> list[str]:
    moved = connection.execute(text("SELECT runyard.adopt_cluster_v1()")).scalar()
    connection.commit()
    if not moved:
        return []
    return [
        "runyard: restored from another PostgreSQL cluster; waits now use the transaction ids of"
        " this one"
    ]


def _upgrade_dagster(before: SchemaState) -> str:
    if before.compatibility is Compatibility.AHEAD:
        return f"dagster: stays as it is: {before.describe()}"
    create_dagster_tables(direct_url(), f"-c lock_timeout={_LOCK_TIMEOUT} -c statement_timeout=0")
    if before.compatibility is Compatibility.CURRENT:
        return "dagster: up to date"
    return f"dagster: {before.current or 'empty'} -> {before.needed}"


@dataclass(frozen=True)
class _Locks:
    """Takes the locks of a piece of work when others let it, until a deadline."""

    connection: Connection
    deadline: float

    def taken(self, schema: str, work: Callable[[], Result]) -> Result:
        """Do the work, again whenever it was denied a lock; raise `RunyardError` in the end."""
        while True:
            try:
                return work()
            except Exception as error:
                self.connection.rollback()
                if not _is_lock_denied(error):
                    raise
                self._pause(schema, error)

    def _pause(self, schema: str, error: Exception) -> None:
        row = self.connection.execute(text(_OLDEST_TRANSACTION)).mappings().one_or_none()
        self.connection.rollback()
        holder = row["holder"] if row is not None else "a transaction that has ended by now had it"
        if time.monotonic() > self.deadline:
            end = f"SELECT pg_terminate_backend({row['pid']})" if row is not None else "wait"
            raise RunyardError(
                f"schema {schema}: a migration did not get the lock of a table: {holder}. End that"
                f" ({end}), then run `runyard migrate` again; what it has done until now stays done"
            ) from error
        _log.warning(
            "schema %s: a migration waits for the lock of a table, and lets others pass meanwhile:"
            " %s",
            schema,
            holder,
        )
        time.sleep(_PAUSE_SECONDS)


def _is_lock_denied(error: BaseException | None) -> bool:
    """Whether an error is a lock that was not free in time.

    It comes from psycopg, or from psycopg2, which Dagster uses, and may be in one of SQLAlchemy.
    """
    while error is not None:
        if _LOCK_NOT_AVAILABLE in (getattr(error, "sqlstate", ""), getattr(error, "pgcode", "")):
            return True
        error = error.__cause__
    return False


def _check_dagster_schema(connection: Connection) -> None:
    """Raise `RunyardError` if Dagster's tables would exist twice, or cannot be created."""
    row = connection.execute(text(_DAGSTER_TABLES)).mappings().one()
    here, existing, role = row["here"], row["existing"], row["role"]
    if here is None:
        raise RunyardError(
            "DATABASE_URL puts Dagster's tables in a schema (by its search_path) that does not"
            " exist: create the schema, or remove the search_path"
        )
    if row["migrated_before"] and existing and here not in existing:
        raise RunyardError(
            f"Dagster's tables are in the schema {existing[0]}, but are expected in {here}: move"
            f" them (ALTER TABLE ... SET SCHEMA {here}), or keep them there and add"
            f" options=-csearch_path%3D{existing[0]} to DATABASE_URL"
        )
    if here not in existing and not row["may_create"]:
        raise RunyardError(
            f"{role} may not create tables in the schema {here}, which is where Dagster's belong:"
            f" GRANT CREATE ON SCHEMA {here} TO {role}, or name a separate schema by adding"
            " options=-csearch_path%3D<schema> to DATABASE_URL"
        )
