"""The rows of another PostgreSQL, copied out as text with the types that they have there."""

import re
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import namedtuple_row
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

from resources.sync.column_types import TEXT, plain, without_modifier
from resources.sync.columns import Columns, row_name

_ROWS = 20_000
_BYTES = 16 << 20
_POLL_MILLISECONDS = 1_000
# Values are written the same way, whatever the other database or its role has configured.
_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
}
# Domains are resolved to their base types. Uses the catalog's own indexes.
_CATALOG = """
WITH RECURSIVE base AS (
    SELECT attnum, attname, atttypid AS type, atttypmod AS modifier
    FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT attnum, attname, typbasetype, greatest(modifier, typtypmod)
    FROM base JOIN pg_type ON pg_type.oid = type
    WHERE typtype = 'd'
)
SELECT attname AS name, format_type(type, modifier) AS kind, typname AS bare,
       typcategory = 'A' AS is_array,
       typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
           AND typname !~ '^_?reg'
           AND typname NOT IN ('name', 'char', '_name', '_char') AS is_built_in
FROM base JOIN pg_type ON pg_type.oid = type
WHERE typtype <> 'd'
ORDER BY attnum
"""
# The other server provides type names, and they become part of statements here.
_TYPE = re.compile(r"[a-z][a-z0-9_ ]*(\(-?\d+(,-?\d+)?\))?[a-z ]*(\[\])?")
_CURSORS = {
    "smallint": pa.int64(),
    "integer": pa.int64(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "date": pa.date32(),
    # Whole numbers, unless the type has a scale.
    "numeric": pa.decimal128(38, 0),
    "timestamp without time zone": pa.timestamp("us"),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    # These sort in the order of their texts.
    "text": pa.string(),
    "uuid": pa.string(),
    "time without time zone": pa.string(),
}


@dataclass(frozen=True)
class _Column:
    """A column of the source, its name and type here, and the expression that selects it."""

    source: str
    name: str
    kind: str
    select: sql.Composable
    arrow: Any


def read_tables(
    url: str, schema: str | None, columns: Columns, cursor: str | None, since: Any
) -> Iterator[pa.Table]:
    """The rows of a table that are newer than `since`; raises `Refused`."""
    with _connect(url) as connection:
        name = sql.Identifier(*([schema] if schema else []), columns.table.source_name)
        plan = _plan(connection, name, columns, cursor)
        for column in plan:
            columns.know(column.name)
            columns.see(column.name, column.kind, "in the source")
        yield pa.table({column.name: pa.array([], column.arrow) for column in plan})
        done = 0
        for rows, count in _chunks(connection, _query(name, plan, cursor, since)):
            yield _table(rows, count, done, plan, columns)
            done += count


@contextmanager
def _connect(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A read-only transaction, so that the whole table is read in one snapshot."""
    url = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    with psycopg.connect(
        url, row_factory=namedtuple_row, connect_timeout=30, tcp_user_timeout=60_000
    ) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for name, value in _SETTINGS.items():
            # Within the transaction: a pooler keeps nothing longer.
            connection.execute("SELECT set_config(%s, %s, true)", (name, value))
        connection.execute("SET LOCAL client_encoding = 'UTF8'")
        yield connection


def _plan(
    connection: psycopg.Connection[Any], name: sql.Identifier, columns: Columns, cursor: str | None
) -> list[_Column]:
    rows = connection.execute(_CATALOG, (name.as_string(connection),)).fetchall()
    if not rows:
        columns.refuse(f"there is no table {name.as_string(connection)}")
    selected = columns.table.columns or [row.name for row in rows]
    missing = {*selected, *columns.table.key, *([cursor] if cursor else [])} - {
        row.name for row in rows if row.name in selected
    }
    if missing:
        columns.refuse(f"there is no column {', '.join(sorted(missing))}")
    return [_column(row, columns, row.name == cursor) for row in rows if row.name in selected]


def _column(row: Any, columns: Columns, is_cursor: bool) -> _Column:
    select: sql.Composable = sql.Identifier(row.name)
    kind = plain(row.kind) if _TYPE.fullmatch(row.kind) else TEXT
    if row.bare in ("money", "_money"):
        # Its text form depends on the server's locale.
        kind = "numeric[]" if row.is_array else "numeric"
        select = sql.SQL("{}::{}").format(select, sql.SQL(kind))
    elif not row.is_built_in:
        kind = "text[]" if row.is_array else TEXT
        select = sql.SQL("{}::{}").format(select, sql.SQL(kind))
    arrow = _cursor_type(kind, columns) if is_cursor else pa.string()
    return _Column(row.name, columns.name(row.name), kind, select, arrow)


def _cursor_type(kind: str, columns: Columns) -> Any:
    """The Arrow type in which the values of a cursor are compared."""
    digits = re.fullmatch(r"numeric\((\d+),(\d+)\)", kind)
    if digits and int(digits[1]) <= 38:
        return pa.decimal128(int(digits[1]), int(digits[2]))
    arrow = _CURSORS.get(without_modifier(kind))
    if arrow is None:
        columns.refuse(f"a column of the type {kind} cannot be the cursor")
    return arrow


def _query(
    name: sql.Identifier, plan: Sequence[_Column], cursor: str | None, since: Any
) -> sql.Composed:
    selects = sql.SQL(", ").join(column.select for column in plan)
    query = sql.SQL("SELECT {} FROM {}").format(selects, name)
    if cursor is not None and since is not None:
        # by an index of that column, where the source has one
        [kind] = [column.kind for column in plan if column.source == cursor]
        # The order in which texts are compared here.
        order = sql.SQL(' COLLATE "C"' if kind == TEXT else "")
        newer = sql.SQL(" WHERE {}{} >= {} OR {} IS NULL")
        column = sql.Identifier(cursor)
        query += newer.format(column, order, sql.Literal(since), column)
    return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv)").format(query)


def _chunks(
    connection: psycopg.Connection[Any], query: sql.Composed
) -> Iterator[tuple[bytes, int]]:
    """Chunks of whole rows, small enough for memory.

    PostgreSQL sends each row separately, and psycopg's own copy takes four times as long for each.
    """
    server = connection.pgconn
    copy = query.as_bytes(connection)
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        # Invalid UTF-8 is then found here, with its column and row.
        connection.execute("SET LOCAL client_encoding = 'SQL_ASCII'")
    _check(server.exec_(copy), ExecStatus.COPY_OUT)
    ready = select.poll()
    ready.register(server.socket, select.POLLIN)
    rows: list[bytes] = []
    size = 0
    while (length := (copied := server.get_copy_data(1))[0]) >= 0:
        if length == 0:
            ready.poll(_POLL_MILLISECONDS)
            server.consume_input()
            continue
        # As bytes, which the garbage collector does not track: it would take half of the time.
        rows.append(bytes(copied[1]))
        size += length
        if len(rows) >= _ROWS or size >= _BYTES:
            yield b"".join(rows), len(rows)
            rows, size = [], 0
    while result := server.get_result():
        _check(result, ExecStatus.COMMAND_OK)
    if rows:
        yield b"".join(rows), len(rows)


def _check(result: PGresult, status: ExecStatus) -> None:
    if result.status != status:
        state = result.error_field(DiagnosticField.SQLSTATE) or b""
        message = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or result.error_message
        try:
            kind = psycopg.errors.lookup(state.decode())
        except KeyError:
            kind = psycopg.OperationalError
        raise kind(message.decode(errors="replace"))


def _table(rows: bytes, count: int, done: int, plan: list[_Column], columns: Columns) -> pa.Table:
    try:
        table = _read(rows, plan, {column.name: column.arrow for column in plan})
    except pa.ArrowInvalid as error:
        _refuse(rows, done, plan, columns, error)
    texts = dict(zip(table.column_names, table.columns, strict=True))

    def where(index: int) -> str:
        return _row(table, plan, columns, done, index)

    return columns.arrow(texts, count, where)


def _read(rows: bytes, plan: list[_Column], types: dict[str, Any]) -> pa.Table:
    return read_csv(
        pa.BufferReader(rows),
        read_options=ReadOptions(
            column_names=[column.name for column in plan],
            block_size=len(rows) + 1,
            use_threads=False,
        ),
        parse_options=ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


def _row(table: pa.Table, plan: list[_Column], columns: Columns, done: int, index: int) -> str:
    keys = [column for column in plan if column.source in columns.table.key]
    row = {column.source: _shown(table[column.name][index].as_py()) for column in keys}
    return row_name(columns.table.key, row, done + index + 1)


def _shown(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _refuse(
    rows: bytes, done: int, plan: list[_Column], columns: Columns, error: pa.ArrowInvalid
) -> NoReturn:
    """Name the value that is not text, or a cursor that cannot be compared, such as infinity."""
    table = _read(rows, plan, dict.fromkeys((column.name for column in plan), pa.binary()))
    for column in plan:
        for index, value in enumerate(table[column.name].to_pylist()):
            what = _fault(value or b"", column)
            if what is not None:
                where = _row(table, plan, columns, done, index)
                columns.refuse_value(column.name, where, what)
    columns.refuse(str(error)[:300])


def _fault(value: bytes, column: _Column) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8, whatever encoding that database declares"
    if column.arrow == pa.string():
        return None
    try:
        _read(value + b"\n", [column], {column.name: column.arrow})
    except pa.ArrowInvalid:
        return f"{text} cannot be the cursor: it is not finite, or finer than its type allows"
    return None
