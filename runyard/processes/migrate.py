"""Brings the tables of the engine, of the project and of Dagster up to date, under one lock.

Processes that start while another one migrates wait for it, and nothing else in the stack starts
before it is done. Migrations connect to the server itself if DATABASE_URL leads to a pooler. The
lock is held by a transaction, so that it ends with its connection in any case.
"""

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
POOLER = (
    "DATABASE_URL leads to a pooler such as PgBouncer: also set RUNYARD_DIRECT_DATABASE_URL to the"
    " URL of the server itself, for migrations and notifications"
)
_LOCK = 8_290_001
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


def migrate() -> list[str]:
    """Bring every schema up to date; return a line for each with its version before and after.

    Raises `RunyardError` if a schema is at a version that this code does not know, or if Dagster's
    tables cannot be created in the right place.
    """
    done: list[str] = []
    with _connect() as guard, _connect() as connection:
        guard.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        guard.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        _check_dagster_schema(connection)
        for schema, folder in _locations():
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            before = _current(connection, schema)
            config = _config(connection, schema, folder)
            _check_known(config, schema, before)
            command.upgrade(config, "head")
            connection.commit()
            done.append(f"{schema}: {before or 'empty'} -> {_current(connection, schema)}")
        if connection.execute(text("SELECT runyard.adopt_cluster_v1()")).scalar():
            done.append(
                "runyard: restored from another PostgreSQL cluster; waits now use the transaction"
                " ids of this one"
            )
        connection.commit()
        create_dagster_tables(direct_url())
        done.append("dagster: up to date")
    if is_pooled():
        _check_pooler()
    return done


def check_migrated() -> None:
    """Raise `SchemaOutOfDate` unless every schema is at the version that this code needs.

    Behind a pooler, also raise `RunyardError` if Dagster's tables would not be found.
    """
    if is_pooled():
        _check_pooler()
    with _connect() as connection:
        for schema, folder in _locations():
            scripts = ScriptDirectory.from_config(_config(connection, schema, folder))
            needed, current = scripts.get_current_head(), _current(connection, schema)
            if current != needed:
                raise SchemaOutOfDate(
                    f"schema {schema} is at version {current or 'none'}, the code needs {needed}:"
                    " run `runyard migrate`"
                )


def _locations() -> list[tuple[str, Path]]:
    """Each schema with its folder of migrations: the engine's and the project's, if it has any."""
    locations = [(ENGINE_SCHEMA, Path(__file__).parents[1] / "store" / "migrations")]
    module = settings().project_module("migrations")
    if module is not None:
        locations.append((PROJECT_SCHEMA, Path(next(iter(module.__path__)))))
    return locations


def _connect(url: str | None = None) -> Connection:
    url = "postgresql+psycopg://" + (url or direct_url()).split("://", 1)[1]
    engine = create_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})
    try:
        return engine.connect()
    except OperationalError as error:
        if leads_to_a_pooler(error):
            raise DatabaseUnavailable(POOLER) from error
        raise DatabaseUnavailable(
            "the database does not answer: check DATABASE_URL, and that the server is running"
        ) from error


def _check_known(config: Config, schema: str, current: str | None) -> None:
    """Raise `RunyardError` if a schema is at a version that is not among the migrations."""
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise RunyardError(
            f"schema {schema} is at version {current}, which this code does not know: a newer"
            " version of the code made it, or one from before the first release. Run the newer"
            f" version; or, if the data may be deleted, `DROP SCHEMA {schema} CASCADE` and migrate"
            " again"
        )


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


def _check_pooler() -> None:
    """Raise `RunyardError` if connections through the pooler do not find Dagster's tables."""
    with _connect() as direct, _connect(database_url()) as pooled:
        expected = direct.execute(text("SELECT current_schema()")).scalar_one()
        actual = pooled.execute(text("SELECT current_schema()")).scalar_one()
        role = pooled.execute(text("SELECT current_user")).scalar_one()
    if expected != actual:
        raise RunyardError(
            f"Dagster's tables are in the schema {expected}, but connections through the pooler use"
            f' {actual}: ALTER ROLE "{role}" SET search_path = {expected}, or use a role that does'
            " not have the name of a schema"
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
