"""A database connection for the event loop that is opened on demand and reopened after a loss."""

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.rows import dict_row

from runyard.errors import DatabaseUnavailable
from runyard.store.database import (
    GIVE_WAY_SECONDS,
    database_url,
    is_pooled,
    may_have_ended,
    statement_options,
)
from runyard.store.queries import Row, statements

_CONNECT_SECONDS = 2
_STATEMENT_SECONDS = 10.0


class ReconnectingConnection:
    """A connection in autocommit mode, for one task at a time.

    Parameters
    ----------
    name
        Its name in the database server's list of connections.
    lock_seconds
        The lock timeout of a statement, after which psycopg raises LockNotAvailable; 0 for none.
    by_indexes
        Whether its statements read by indexes only, also while the tables are small: a session
        keeps the plans that it has made.
    """

    def __init__(self, name: str, lock_seconds: float = 0, *, by_indexes: bool = False) -> None:
        self._name = name
        self._by_indexes = by_indexes
        self._lock_seconds = lock_seconds
        self._connection: psycopg.AsyncConnection[Row] | None = None

    async def fetch_all(self, statement: str, **parameters: Any) -> list[Row]:
        """Run a named statement and return its rows.

        Raises `DatabaseUnavailable`, also when there is no response within 10 s, and the errors of
        psycopg.
        """
        try:
            async with asyncio.timeout(_STATEMENT_SECONDS):
                return await self._fetch_all(statements()[statement], parameters)
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            if isinstance(error, psycopg.OperationalError) and self._is_open:
                raise  # the database responded, with an error for this statement
            await self.close()
            raise DatabaseUnavailable(
                f"the database does not respond ({type(error).__name__})"
            ) from error

    async def close(self) -> None:
        """Close the connection; the next `fetch_all` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()

    @property
    def _is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    async def _fetch_all(self, statement: bytes, parameters: Row) -> list[Row]:
        opened = await self._open()
        try:
            return await self._execute(opened, statement, parameters)
        except psycopg.errors.DeadlockDetected:
            # PostgreSQL rolled this back in favour of another sender of the same ids. Retry after a
            # pause, in which the other one proceeds; otherwise both would deadlock again.
            await asyncio.sleep(GIVE_WAY_SECONDS)
            return await self._execute(opened, statement, parameters)

    async def _open(self) -> psycopg.AsyncConnection[Row]:
        """The connection, or a new one: on an ended one a statement's outcome would be unknown."""
        if self._connection is not None and not self._connection.closed:
            if not may_have_ended(self._connection):
                return self._connection
            await self.close()
        return await self._connect()

    async def _execute(
        self, connection: psycopg.AsyncConnection[Row], statement: bytes, parameters: Row
    ) -> list[Row]:
        if not (self._lock_seconds and is_pooled()):
            return await (await connection.execute(statement, parameters)).fetchall()
        # Behind a connection pooler a setting must not outlive its transaction.
        async with connection.transaction():
            await connection.execute(self._lock_timeout("SET LOCAL"))
            return await (await connection.execute(statement, parameters)).fetchall()

    def _lock_timeout(self, setting: str) -> bytes:
        return f"{setting} lock_timeout = {int(self._lock_seconds * 1000)}".encode()

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        connection = await psycopg.AsyncConnection.connect(
            database_url(),
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=_CONNECT_SECONDS,
            application_name=f"runyard {self._name}",
            **statement_options(),
        )
        self._connection = connection  # so that `close` also closes one whose setting failed
        if self._lock_seconds and not is_pooled():
            await connection.execute(self._lock_timeout("SET"))
        if self._by_indexes and not is_pooled():
            await connection.execute("SET enable_seqscan = off")
        return connection
