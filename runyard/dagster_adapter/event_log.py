"""The event log storage of `dagster.yaml`: dagster-postgres's, but warm workers write in batches.

A run of five ops reports some 35 events, and dagster-postgres commits each on its own. A process
in which `batching` is on collects them and writes them together: at every event that changes the
run's status, when there are many, after a fraction of a second, and before it reads the log.
Everywhere else the storage behaves as dagster-postgres does.

Events are written in the order in which they were reported. When a process is killed, the log loses
what was reported in the last fraction of a second. While the database is away, events are kept and
written when it is back.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

from dagster import DagsterEventType, DagsterInstance, EventLogEntry
from dagster_postgres import PostgresEventLogStorage
from sqlalchemy import Connection, select
from sqlalchemy.exc import DataError, DBAPIError
from typing_extensions import override

from runyard.dagster_adapter.internals import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    PIPELINE_EVENTS,
    ConfigurableClassData,
    SqlEventLogStorageTable,
    get_token_provider_from_config,
    pg_url_from_config,
)
from runyard.engine.backoff import Backoff

Row = Mapping[str, Any]

_SECONDS = 0.2
_ROWS = 100
_CHARACTERS = 1 << 20
# While the database is away events are kept up to this size; then reporting one raises, as it
# always would without batches.
_KEPT_CHARACTERS = 16 << 20
_ROWS_OF_A_STATEMENT = 500
_LONGEST_WAIT = 5.0
# Dagster derives rows of other tables from these, by the id that they are given in the log.
_AT_ONCE = ASSET_EVENTS | ASSET_CHECK_EVENTS
# The status of a run must never be ahead of its log, nor another process that runs its next step.
_ENDS_A_BATCH = PIPELINE_EVENTS | {DagsterEventType.STEP_WORKER_STARTING}
_REFUSED = (DataError, ValueError)
_log = logging.getLogger("runyard.dagster_adapter.event_log")


@contextmanager
def batching(instance: DagsterInstance) -> Iterator[None]:
    """Let this process, but no child of it, write the events of runs in batches.

    Does nothing if `dagster.yaml` names another event log storage.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, BatchingEventLogStorage):
        yield
        return
    batches = _batches[storage.postgres_url] = _Batches(storage)
    try:
        yield
    finally:
        del _batches[storage.postgres_url]
        batches.close()


def flush() -> None:
    """Write the events that this process has collected, if the database takes them now."""
    for batches in list(_batches.values()):
        batches.try_to_write()


class BatchingEventLogStorage(PostgresEventLogStorage):
    """Keeps Dagster's event log in PostgreSQL; takes the settings of dagster-postgres's storage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._existing_tables: set[str] = set()

    @classmethod
    @override
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        return cls(
            inst_data=inst_data,
            postgres_url=pg_url_from_config(config_value),
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
            token_provider=get_token_provider_from_config(config_value),
        )

    @override
    def store_event(self, event: EventLogEntry) -> None:
        batches = _batches.get(self.postgres_url)
        kind = event.dagster_event_type if event.is_dagster_event else None
        if batches is None:
            super().store_event(event)
        elif kind in _AT_ONCE:
            with batches.written():
                super().store_event(event)
        elif kind in _ENDS_A_BATCH:
            batches.write(self._event_to_row(event))
        else:
            batches.add(self._event_to_row(event))

    @override
    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        batches = _batches.get(self.postgres_url)
        if batches is None:
            super().store_event_batch(events)
        else:
            with batches.written():
                super().store_event_batch(events)

    @override
    def run_connection(self, run_id: str | None = None) -> AbstractContextManager[Connection]:
        self._write_before_reading()
        return super().run_connection(run_id)

    @override
    def index_connection(self) -> AbstractContextManager[Connection]:
        self._write_before_reading()
        return super().index_connection()

    def _write_before_reading(self) -> None:
        batches = _batches.get(self.postgres_url)
        if batches is not None:
            batches.try_to_write()

    @override
    def has_table(self, table_name: str) -> bool:
        # Asked at every event of an asset; a table that exists is never dropped.
        if table_name not in self._existing_tables and super().has_table(table_name):
            self._existing_tables.add(table_name)
        return table_name in self._existing_tables

    @override
    def dispose(self) -> None:
        self._write_before_reading()
        super().dispose()

    def insert(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Insert rows into the log by one statement, in this order.

        dagster-postgres also notifies a channel on which no supported Dagster listens any more:
        the live view polls. A notification would make concurrent commits wait for each other.
        """
        connection.execute(SqlEventLogStorageTable.insert(), list(rows))

    def contains(self, connection: Connection, row: Row) -> bool:
        """Whether a row is in the log."""
        columns = SqlEventLogStorageTable.c
        query = select(columns.id).where(
            columns.run_id == row["run_id"], columns.event == row["event"]
        )
        return connection.execute(query.limit(1)).first() is not None

    def connect(self) -> AbstractContextManager[Connection]:
        """A connection for writing; tries to get one for some seconds, as dagster-postgres does."""
        return super().index_connection()


class _Batches:
    """What this process has reported and not yet written, whichever storage object it went to."""

    def __init__(self, storage: BatchingEventLogStorage) -> None:
        self._storage = storage
        self._rows: list[Row] = []
        self._characters = 0
        self._doubtful: Sequence[Row] = ()
        self._failing = False
        self._is_writing = False
        self._is_closed = False
        self._filled = threading.Event()
        self._lock = threading.Lock()  # guards the rows, and is never held for long
        self._order = threading.RLock()  # held while writing, for rows to be written in order
        threading.Thread(target=self._write_late, name="runyard-event-log", daemon=True).start()

    def close(self) -> None:
        """Write what was collected, and end the thread that writes late."""
        self._is_closed = True
        self._filled.set()
        self.try_to_write()

    def add(self, row: Row) -> None:
        """Collect a row.

        Raises what writing raises if too much has been kept already.
        """
        if self._characters >= _KEPT_CHARACTERS:
            self.write()
        with self._lock:
            self._rows.append(row)
            self._characters += len(row["event"])
            self._filled.set()
            is_full = len(self._rows) >= _ROWS or self._characters >= _CHARACTERS
        if is_full and not self._failing:
            self.try_to_write()

    def write(self, last: Row | None = None) -> None:
        """Write what was collected and then `last`, in as few statements as possible.

        When that fails, what was collected is kept for the next time, but not `last`.
        """
        with self._order:
            if self._is_writing:  # what is logged by writing itself is written the next time
                return
            self._is_writing = True
            try:
                self._write_despite_a_lost_connection(last)
            except BaseException:
                self._failing = True
                raise
            else:
                self._failing = False
            finally:
                self._is_writing = False

    def try_to_write(self) -> None:
        """Write what was collected; when that fails, it is kept and tried again later."""
        if not self._rows:
            return
        try:
            self.write()
        except Exception as error:
            _log.debug("the events of runs are written later: %s", type(error).__name__)

    @contextmanager
    def written(self) -> Iterator[None]:
        """Write what was collected, and write nothing else within this context."""
        with self._order:
            self.write()
            yield

    def _write_despite_a_lost_connection(self, last: Row | None) -> None:
        """Write; if the connection was lost, as by a restart of the server, try with another."""
        try:
            self._write(last)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            self._write(last)

    def _write(self, last: Row | None) -> None:
        limit = _ROWS_OF_A_STATEMENT
        if self._doubtful and last in self._settle_doubt():
            return
        while rows := self._next_rows(last, limit):
            try:
                self._insert(rows)
            except _REFUSED as error:
                self._doubtful = ()
                if len(rows) > 1:
                    limit = 1
                    continue
                if rows[0] is last:
                    raise
                _log.error("an event of run %s is not stored: %s", rows[0]["run_id"], error)
            self._forget(rows)
            if rows[-1] is last:
                return

    def _next_rows(self, last: Row | None, limit: int) -> Sequence[Row]:
        with self._lock:
            rows = self._rows[:limit]
            if last is not None and len(self._rows) < limit:
                rows.append(last)
            return rows

    def _insert(self, rows: Sequence[Row]) -> None:
        """Insert rows. If the connection is lost meanwhile, they may have been inserted or not."""
        with self._storage.connect() as connection:
            self._doubtful = rows
            self._storage.insert(connection, rows)
        self._doubtful = ()

    def _settle_doubt(self) -> Sequence[Row]:
        """The rows of the last statement, which failed, if it was carried out after all."""
        doubtful = self._doubtful
        with self._storage.connect() as connection:
            was_carried_out = self._storage.contains(connection, doubtful[0])
        self._doubtful = ()
        if not was_carried_out:
            return ()
        self._forget(doubtful)
        return doubtful

    def _forget(self, rows: Sequence[Row]) -> None:
        with self._lock:
            # The last one may never have been collected.
            count = sum(kept is row for kept, row in zip(self._rows, rows, strict=False))
            del self._rows[:count]
            self._characters = sum(len(row["event"]) for row in self._rows)
            if not self._rows:
                self._filled.clear()

    def _write_late(self) -> None:
        backoff = Backoff(_log, "the events of runs cannot be written", _LONGEST_WAIT)
        while self._filled.wait() and not self._is_closed:
            time.sleep(_SECONDS)
            try:
                self.write()
            except Exception as error:
                time.sleep(backoff.failed(error))
            else:
                backoff.succeeded()


_batches: dict[str, _Batches] = {}  # by the URL of the database
# What a parent has collected, it writes itself.
os.register_at_fork(after_in_child=_batches.clear)
