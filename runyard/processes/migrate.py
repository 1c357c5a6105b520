"""Brings the tables up to date: the engine's, the project's and Dagster's, once, under one lock.

Processes that start while another migrates wait for it. Nothing else in the stack starts before this is done. It goes to the server itself where
DATABASE_URL leads to a pooler; and the lock is a transaction's, so that it ends with its connection wherever that leads.
"""

import importlib
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from runyard.dagster_adapter.internals import create_dagster_tables
from runyard.errors import DatabaseUnavailable, RunyardError, SchemaOutOfDate
from runyard.settings import settings
from runyard.store.database import database_url, direct_url, is_pooled, leads_to_a_pooler

ENGINE_SCHEMA = "runyard"
PROJECT_SCHEMA = "app"
_LOCK = 8_290_001
POOLER = "DATABASE_URL leads to a pooler such as PgBouncer: set RUNYARD_DIRECT_DATABASE_URL to the URL of the server itself as well, for migrations and for notifications"
# Where Dagster's tables would be made, whether this role may, and where there are some. Those of other applications may have one of these names, not both.
_DAGSTERS_SCHEMA = """
    SELECT current_user AS role, current_schema() AS here, has_schema_privilege(current_schema(), 'CREATE') AS may, ARRAY(
        SELECT relnamespace::regnamespace::text FROM pg_class WHERE relkind = 'r' AND relname IN ('event_logs', 'secondary_indexes')
        GROUP BY relnamespace HAVING count(*) = 2
    ) AS there, to_regclass('runyard.alembic_version') IS NOT NULL AS known
"""


def migrate() -> list[str]:
    """Bring every schema up to date; return a line for each, saying from where to where."""
    done: list[str] = []
    with _connect() as guard, _connect() as connection:
        guard.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        guard.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _check_dagsters_schema(connection)
        for schema, folder in _locations():
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            before = _current(connection, schema)
            config = _config(connection, schema, folder)
            command.upgrade(config, "head")
            connection.commit()
            done.append(f"{schema}: {before or 'empty'} -> {_current(connection, schema)}")
        if connection.execute(text("SELECT runyard.adopt_cluster_v1()")).scalar():
            done.append(
                "runyard: came from another PostgreSQL cluster; what waits goes on with the transactions of this one"
            )
        connection.commit()
        create_dagster_tables(direct_url())
        done.append("dagster: up to date")
    if is_pooled():
        _check_pooler()
    return done


def check_migrated() -> None:
    """Raise `SchemaOutOfDate` unless every schema is at the version that this code wants, and found the way that the stack looks for it."""
    if is_pooled():
        _check_pooler()
    with _connect() as connection:
        for schema, folder in _locations():
            wanted = ScriptDirectory.from_config(
                _config(connection, schema, folder)
            ).get_current_head()
            found = _current(connection, schema)
            if found != wanted:
                raise SchemaOutOfDate(
                    f"schema {schema} is at version {found or 'none'}, the code wants {wanted}: run `runyard migrate`"
                )


def _locations() -> list[tuple[str, Path]]:
    """The folders with migrations: the engine's own and, where there is one, the project's."""
    found = [(ENGINE_SCHEMA, Path(__file__).parents[1] / "store" / "migrations")]
    package = settings().migrations
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not package.startswith(error.name):
            raise
    else:
        found.append((PROJECT_SCHEMA, Path(next(iter(module.__path__)))))
    return found


def _connect(url: str | None = None) -> Connection:
    url = "postgresql+psycopg://" + (url or direct_url()).split("://", 1)[1]
    try:
        return create_engine(
            url, poolclass=NullPool, connect_args={"prepare_threshold": None}
        ).connect()
    except OperationalError as error:
        if leads_to_a_pooler(error):
            raise DatabaseUnavailable(POOLER) from error
        raise DatabaseUnavailable(
            "the database does not answer: check DATABASE_URL and that the server runs"
        ) from error


def _check_dagsters_schema(connection: Connection) -> None:
    """Raise `RunyardError` where Dagster's tables would be made a second time, or cannot be made."""
    row = connection.execute(text(_DAGSTERS_SCHEMA)).mappings().one()
    here, there = row["here"], row["there"]
    if here is None:
        raise RunyardError(
            "the schema that DATABASE_URL gives Dagster's tables by its search_path is not there: create it, or leave that away"
        )
    if row["known"] and there and here not in there:
        raise RunyardError(
            f"Dagster's tables are in the schema {there[0]}, and are wanted in {here}: move them there (ALTER TABLE ... SET SCHEMA {here}),"
            f" or leave them and add options=-csearch_path%3D{there[0]} to DATABASE_URL"
        )
    if here not in there and not row["may"]:
        raise RunyardError(
            f"{row['role']} may make no tables in the schema {here}, where Dagster's are to be: GRANT CREATE ON SCHEMA {here} TO {row['role']},"
            " or name a schema of its own by adding options=-csearch_path%3D<schema> to DATABASE_URL"
        )


def _check_pooler() -> None:
    """Raise `RunyardError` where Dagster's tables would be looked for elsewhere than the migration has made them."""
    with _connect() as straight, _connect(database_url()) as through:
        wanted, found = (
            one.execute(text("SELECT current_schema()")).scalar_one() for one in (straight, through)
        )
        role = through.execute(text("SELECT current_user")).scalar_one()
    if wanted != found:
        raise RunyardError(
            f"behind the pooler Dagster's tables are looked for in the schema {found}, and are in {wanted}:"
            f' ALTER ROLE "{role}" SET search_path = {wanted}, or give the role another name than a schema'
        )


def _config(connection: Connection, schema: str, folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, schema=schema)
    return config


def _current(connection: Connection, schema: str) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": schema})
    return context.get_current_revision()
