"""Reads the revision of every schema, and compares it with what this code knows.

There are three: the engine's, that of the project's own tables if it has migrations, and Dagster's.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from runyard.dagster_adapter.internals import ALEMBIC_SCRIPTS_LOCATION
from runyard.errors import DatabaseUnavailable, RunyardError
from runyard.settings import settings
from runyard.store.database import database_url, direct_url, is_pooled
from runyard.store.schema_contents import lacking
from runyard.store.schema_state import (
    ENGINE_SCHEMA,
    MIGRATIONS,
    Compatibility,
    Recorded,
    SchemaState,
)
from runyard.store.unreachable import why_no_connection

PROJECT_SCHEMA = "app"
_CONNECT_SECONDS = 10
_log = logging.getLogger("runyard.schema")


@dataclass(frozen=True)
class Migrations:
    """The migrations of a schema.

    Attributes
    ----------
    schema
        The schema's name; for Dagster's tables, which are wherever the database puts them, a word.
    folder
        Where Alembic finds them.
    maker
        Whose they are.
    """

    schema: str
    folder: str
    maker: str

    def config(self, connection: Connection | None = None) -> Config:
        """Alembic's configuration, for a connection."""
        config = Config()
        config.set_main_option("script_location", self.folder)
        config.set_main_option("path_separator", "os")
        config.attributes.update(connection=connection, schema=self.schema)
        return config

    def scripts(self) -> ScriptDirectory:
        """The migrations."""
        return ScriptDirectory.from_config(self.config())

    def known(self) -> tuple[str, ...]:
        """Their revisions, the first one first."""
        return _known(self)

    def state(self, connection: Connection) -> SchemaState:
        """The schema's state in a database."""
        current = self._current(connection)
        if self == DAGSTER:
            # What a newer Dagster has made is for Dagster to say.
            recorded = Recorded(current, None, "") if current is not None else None
        else:
            recorded = _recorded(connection, self.schema)
        is_expected = self == ENGINE and current == self.known()[-1]
        lacks = lacking(connection) if is_expected else None
        return SchemaState(self.schema, current, self.known(), recorded, self.maker, lacks)

    def _current(self, connection: Connection) -> str | None:
        options = {} if self == DAGSTER else {"version_table_schema": self.schema}
        return MigrationContext.configure(connection, opts=options).get_current_revision()


@cache
def _known(migrations: Migrations) -> tuple[str, ...]:
    newest_first = [script.revision for script in migrations.scripts().walk_revisions()]
    return tuple(reversed(newest_first))


def _recorded(connection: Connection, schema: str) -> Recorded | None:
    if connection.execute(text("SELECT to_regclass('runyard.schemas')")).scalar() is None:
        return None
    query = text("SELECT revision, oldest_code, version FROM runyard.schemas WHERE name = :name")
    row = connection.execute(query, {"name": schema}).mappings().one_or_none()
    return Recorded(**row) if row is not None else None


ENGINE = Migrations(ENGINE_SCHEMA, str(MIGRATIONS), "Runyard")
DAGSTER = Migrations("dagster", ALEMBIC_SCRIPTS_LOCATION, "Dagster")


def own_migrations() -> list[Migrations]:
    """The engine's migrations and the project's, if it has any."""
    module = settings().project_module("migrations")
    if module is None:
        return [ENGINE]
    folder = Path(next(iter(module.__path__)))
    return [ENGINE, Migrations(PROJECT_SCHEMA, str(folder), "the project")]


def all_migrations() -> list[Migrations]:
    """`own_migrations`, then Dagster's."""
    return [*own_migrations(), DAGSTER]


def check_migrated() -> list[str]:
    """Return a sentence for each schema that a newer version has made, and this code works on.

    Raises `SchemaOutOfDate` or `SchemaUnusable` when it does not work on one. Behind a pooler, also
    raises `RunyardError` when Dagster's tables would not be found.
    """
    if is_pooled():
        check_pooler()
    return _newer(all_migrations())


def check_at_start() -> None:
    """Let a process start only if its code works on every schema; log a warning for newer ones.

    Raises `SchemaOutOfDate` or `SchemaUnusable`. Does nothing while the database is away: whatever
    the process does then waits for it, and the health checks look again.
    """
    try:
        migrations = all_migrations()
    except Exception:  # the project's code does not load, which others say
        migrations = [ENGINE, DAGSTER]
    try:
        for sentence in _newer(migrations):
            _log.warning("%s", sentence)
    except DatabaseUnavailable:
        return
    except (SQLAlchemyError, CommandError) as error:
        _log.warning("the versions of the schemas cannot be read: %s", type(error).__name__)


def _newer(migrations: Sequence[Migrations]) -> list[str]:
    """Check that this code works on these schemas; describe those that are newer."""
    with connect() as connection:
        states = [each.state(connection) for each in migrations]
    for state in states:
        state.check()
    return [state.describe() for state in states if state.compatibility is Compatibility.AHEAD]


@contextmanager
def connect(url: str | None = None) -> Iterator[Connection]:
    """A connection to the server itself, or to another URL, that is closed after the block.

    Raises `DatabaseUnavailable`.
    """
    url = "postgresql+psycopg://" + (url or direct_url()).split("://", 1)[1]
    options = {"prepare_threshold": None, "connect_timeout": _CONNECT_SECONDS}
    engine = create_engine(url, poolclass=NullPool, connect_args=options)
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise DatabaseUnavailable(why_no_connection(error.orig or error)) from error
    with connection:
        yield connection


def check_pooler() -> None:
    """Raise `RunyardError` if connections through the pooler do not find Dagster's tables."""
    with connect() as direct, connect(database_url()) as pooled:
        expected = direct.execute(text("SELECT current_schema()")).scalar_one()
        actual = pooled.execute(text("SELECT current_schema()")).scalar_one()
        role = pooled.execute(text("SELECT current_user")).scalar_one()
    if expected != actual:
        raise RunyardError(
            f"Dagster's tables are in the schema {expected}, but connections through the pooler use"
            f' {actual}: ALTER ROLE "{role}" SET search_path = {expected}, or use a role that does'
            " not have the name of a schema"
        )
