"""One connection to the database for the event loop: opened when it is needed, and anew after it was lost."""

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.rows import dict_row

from runyard.errors import DatabaseUnavailable
from runyard.store.database import GIVE_WAY_SECONDS, database_url, is_pooled, statement_options
from runyard.store.queries import Row, statements

_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 10.0


class ReconnectingConnection:
    """A connection in autocommit mode that one task uses at a time.

    Parameters
    ----------
    name
        How the database server knows it.
    lock_seconds
        How long a statement may wait for what another transaction has locked; psycopg's LockNotAvailable then.
    """

    def __init__(self, name: str, lock_seconds: float = 0) -> None:
        self._name = name
        self._lock_seconds = lock_seconds
        self._connection: psycopg.AsyncConnection[Row] | None = None

    async def fetch_all(self, statement: str, **parameters: Any) -> list[Row]:
        """Run a statement by its name; return its rows. Raises `DatabaseUnavailable`, also when it does not answer in 10 s, and psycopg's errors."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                connection = (
                    self._connection
                    if self._connection is not None and not self._connection.closed
                    else await self._connect()
                )
                try:
                    return await self._execute(connection, statements()[statement], parameters)
                except psycopg.errors.DeadlockDetected:
                    # PostgreSQL gave way to another sender of the same ids, and has undone all of it. The other one
                    # has to wake before it is sent again, or both meet as before.
                    await asyncio.sleep(GIVE_WAY_SECONDS)
                    return await self._execute(connection, statements()[statement], parameters)
        except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError) as error:
            if (
                isinstance(error, psycopg.OperationalError)
                and self._connection is not None
                and not self._connection.closed
            ):
                raise  # the database has answered: it does not want this statement
            await self.close()
            raise DatabaseUnavailable(
                f"the database does not answer ({type(error).__name__})"
            ) from error

    async def close(self) -> None:
        """Close the connection; the next `run` opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                await connection.close()

    async def _execute(
        self, connection: psycopg.AsyncConnection[Row], statement: bytes, parameters: Row
    ) -> list[Row]:
        if not (self._lock_seconds and is_pooled()):
            return await (await connection.execute(statement, parameters)).fetchall()
        # Behind a pooler nothing may be set for longer than a transaction.
        async with connection.transaction():
            await connection.execute(self._lock_timeout("SET LOCAL"))
            return await (await connection.execute(statement, parameters)).fetchall()

    def _lock_timeout(self, setting: str) -> bytes:
        return f"{setting} lock_timeout = {int(self._lock_seconds * 1000)}".encode()

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        self._connection = await psycopg.AsyncConnection.connect(
            database_url(),
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=_CONNECT_SECONDS,
            application_name=f"runyard {self._name}",
            **statement_options(),
        )
        if self._lock_seconds and not is_pooled():
            await self._connection.execute(self._lock_timeout("SET"))
        return self._connection
