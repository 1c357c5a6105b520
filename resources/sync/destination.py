"""This database as dlt's destination, each column with the type that it has in its source.

Values travel as text in the form that PostgreSQL parses, and only PostgreSQL converts them: nothing
in between (Arrow, Python) can have a smaller range than either end.
"""

import csv
import re
from pathlib import Path
from typing import Any

import psycopg2
from dlt.common.exceptions import TerminalException
from dlt.common.storages.file_storage import FileStorage
from dlt.destinations.impl.postgres.factory import PostgresTypeMapper, postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresCsvCopyJob

from runyard.errors import NonRetriable

TYPE_HINT = "x-postgres-type"
_DLT_COLUMNS = ("_dlt_id", "_dlt_load_id")


# `COPY people, line 3, column zip: "NA"`; PostgreSQL itself truncates a long value.
_PLACE = re.compile(r"^COPY [^,]*, line (\d+), column (.*?)(: .*)?$", re.MULTILINE | re.DOTALL)
_REFUSALS = (
    psycopg2.DataError,
    # A row that is too large, or too many columns.
    psycopg2.errors.ProgramLimitExceeded,
    psycopg2.IntegrityError,
    psycopg2.NotSupportedError,
    psycopg2.ProgrammingError,
)


class _CannotLoad(TerminalException, NonRetriable):
    """PostgreSQL rejects a value, and always will."""


class ExactTypeMapper(PostgresTypeMapper):
    """Creates a column with the type that its hint names."""

    def to_destination_type(self, column: Any, table: Any) -> str:
        """The type in SQL."""
        return column.get(TYPE_HINT) or super().to_destination_type(column, table)


class ExactCopyJob(PostgresCsvCopyJob):
    """Copies a file unchanged: dlt's own job would turn empty text into NULL."""

    def run(self) -> None:
        """Copy the file in one transaction."""
        client = self._job_client.sql_client
        with FileStorage.open_zipsafe_ro(self._file_path, "rb") as file:
            [header] = csv.reader([file.readline().decode()])
            columns = ", ".join(client.escape_column_name(name) for name in header)
            table = client.make_qualified_table_name(self.load_table_name)
            try:
                with client.begin_transaction(), client.native_connection.cursor() as cursor:
                    cursor.copy_expert(f"COPY {table} ({columns}) FROM STDIN (FORMAT csv)", file)
            except _REFUSALS as error:
                # dlt would retry an error that it does not know several times.
                raise _CannotLoad(self._refusal(error)) from error

    def _refusal(self, error: psycopg2.Error) -> str:
        table = self.load_table_name
        said = str(error.diag.message_primary or error).splitlines()[0][:300]
        place = _PLACE.match(error.diag.context or "")
        if place is None:
            return f"{table}: {said}"
        files = list(Path(self._file_path).parent.parent.glob(f"*_jobs/{table}.*"))
        part = "" if len(files) == 1 else f" of one of {len(files)} parts"
        return f"{table}.{place[2]}, row {place[1]}{part}: {said}"


class ExactPostgresClient(PostgresClient):
    """Loads files with `ExactCopyJob`."""

    def create_load_job(
        self, table: Any, file_path: str, load_id: str, restore: bool = False
    ) -> Any:
        """The job that loads a file."""
        job = super().create_load_job(table, file_path, load_id, restore)
        return ExactCopyJob(file_path) if type(job) is PostgresCsvCopyJob else job

    def _create_merge_followup_jobs(self, table_chain: Any) -> Any:
        self._refuse_different_rows(table_chain[0])
        return super()._create_merge_followup_jobs(table_chain)

    def _refuse_different_rows(self, table: Any) -> None:
        """Refuse different rows with the same key where no cursor says which is the newest, because
        dlt would keep any one of them."""
        name, columns = table["name"], table["columns"]
        key = [column for column in columns if columns[column].get("primary_key")]
        newest = [column for column in columns if columns[column].get("dedup_sort")]
        if not key:
            return
        escape = self.sql_client.escape_column_name
        by = ", ".join(map(escape, dict.fromkeys([*key, *newest])))
        compared = ", ".join(escape(column) for column in columns if column not in _DLT_COLUMNS)
        staged = self.sql_client.get_qualified_table_names(name)[1]
        shown_key = ", ".join(f"{escape(column)}::text" for column in key)
        statement = f"""
            SELECT {shown_key} FROM (
                SELECT *, count(*) OVER (PARTITION BY {by}) AS "how often" FROM {staged}
            ) AS staged
            WHERE "how often" > 1
            GROUP BY {by} HAVING count(DISTINCT md5(ROW({compared})::text)) > 1 LIMIT 1"""  # noqa: S608 (names are escaped)
        with self.sql_client as client:  # no job has opened it here
            rows = client.execute_sql(statement)
        if rows:
            shown = ", ".join(
                f"{column}={str(value)[:60]}" for column, value in zip(key, rows[0], strict=True)
            )
            raise _CannotLoad(
                f"{name}: different rows have the same key {shown}: declare the columns that "
                "identify a row as its key, or a cursor, by which the newest row is kept"
            )


class exact_postgres(postgres):
    """PostgreSQL without conversions; named like a function, as dlt's destinations are."""

    def _raw_capabilities(self) -> Any:
        capabilities = super()._raw_capabilities()
        capabilities.type_mapper = ExactTypeMapper
        return capabilities

    @property
    def client_class(self) -> type[PostgresClient]:
        """The client that loads into the database."""
        return ExactPostgresClient
