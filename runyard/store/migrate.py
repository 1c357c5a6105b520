"""Brings the tables up to date: the engine's, the project's and Dagster's, once, under one lock.

Processes that start while another migrates wait for it. Nothing else in the stack starts before this is done.
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

from runyard.dagster_internals import create_dagster_tables
from runyard.errors import DatabaseUnavailable, SchemaOutOfDate
from runyard.settings import settings
from runyard.store.database import database_url

ENGINE_SCHEMA = "runyard"
PROJECT_SCHEMA = "app"
_LOCK = 8_290_001


def migrate() -> list[str]:
    """Bring every schema up to date; return a line for each, saying from where to where."""
    done: list[str] = []
    with _connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        connection.commit()
        for schema, folder in _locations():
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {schema}"))
            before = _current(connection, schema)
            config = _config(connection, schema, folder)
            command.upgrade(config, "head")
            connection.commit()
            done.append(f"{schema}: {before or 'empty'} -> {_current(connection, schema)}")
        if connection.execute(text("SELECT runyard.settle_in_v1()")).scalar():
            done.append("runyard: came from another PostgreSQL cluster; what waits goes on with the transactions of this one")
        connection.commit()
        create_dagster_tables(database_url())
        done.append("dagster: up to date")
    return done


def check_migrated() -> None:
    """Raise `SchemaOutOfDate` unless every schema is at the version that this code wants."""
    with _connect() as connection:
        for schema, folder in _locations():
            wanted = ScriptDirectory.from_config(_config(connection, schema, folder)).get_current_head()
            found = _current(connection, schema)
            if found != wanted:
                raise SchemaOutOfDate(f"schema {schema} is at version {found or 'none'}, the code wants {wanted}: run `runyard migrate`")


def _locations() -> list[tuple[str, Path]]:
    """The folders with migrations: the engine's own and, where there is one, the project's."""
    found = [(ENGINE_SCHEMA, Path(__file__).parent / "migrations")]
    package = settings().migrations
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not package.startswith(error.name):
            raise
    else:
        found.append((PROJECT_SCHEMA, Path(next(iter(module.__path__)))))
    return found


def _connect() -> Connection:
    url = "postgresql+psycopg://" + database_url().split("://", 1)[1]
    try:
        return create_engine(url, poolclass=NullPool).connect()
    except OperationalError as error:
        raise DatabaseUnavailable("the database does not answer: check DATABASE_URL and that the server runs") from error


def _config(connection: Connection, schema: str, folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, schema=schema)
    return config


def _current(connection: Connection, schema: str) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": schema})
    return context.get_current_revision()
