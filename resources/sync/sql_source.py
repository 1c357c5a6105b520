"""The rows of another database: PostgreSQL directly, all others through SQLAlchemy."""

from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import dlt
import sqlalchemy as sa

from resources.sync import column_types, json_values, postgres_source, text_columns
from resources.sync.columns import Columns
from resources.sync.source_config import Source, Table

_CHUNK = 5_000
# The types of a database's columns here, for a table without rows; any other is text.
_TYPES: list[tuple[type[Any], str]] = [
    (sa.Boolean, column_types.BOOLEAN),
    (sa.Integer, column_types.BIGINT),
    (sa.Float, column_types.DOUBLE),
    (sa.Numeric, column_types.NUMERIC),
    (sa.DateTime, column_types.TIMESTAMP),
    (sa.Date, column_types.DATE),
    (sa.Time, column_types.TIME),
    (sa.Interval, column_types.INTERVAL),
    (sa.LargeBinary, column_types.BYTEA),
    (sa.JSON, column_types.JSONB),
    (sa.Uuid, column_types.UUID),
]


def resource(source: Source, table: Table, columns: Columns) -> Any:
    """A table as a dlt resource: its rows, then their columns.

    Rows at the watermark are identified by their whole content, not by their key: a row that
    changed again at that time counts as another one.
    """
    if source.is_postgres():
        return _postgres(source, table, columns)

    cursor = _cursor(table.cursor)

    def rows(changed: Any = cursor) -> Iterator[Any]:
        yield from _rows(source, columns, changed)

    done = 0

    def as_columns(rows: Any) -> Any:
        nonlocal done
        if not isinstance(rows, list):
            return rows
        done += len(rows)
        return text_columns.columns_of(columns, rows, first=done - len(rows) + 1)

    resource_rows = dlt.resource(rows, name=f"{table.name}_rows")
    return resource_rows | dlt.transformer(as_columns, name=table.name)


def _postgres(source: Source, table: Table, columns: Columns) -> Any:
    # The rows already have the column names of this database.
    cursor = _cursor(columns.called(table.cursor) if table.cursor else None)

    def rows(changed: Any = cursor) -> Iterator[Any]:
        since = changed.last_value if changed is not None else None
        yield from postgres_source.read_tables(
            source.address() or "", source.schema_, columns, table.cursor, since
        )

    def same(rows: Any) -> Any:
        return rows

    resource_rows = dlt.resource(rows, name=f"{table.name}_rows")
    return resource_rows | dlt.transformer(same, name=table.name)


def _cursor(name: str | None) -> Any:
    if name is None:
        return None
    return dlt.sources.incremental(f"'{name}'", on_cursor_value_missing="include")


def _rows(source: Source, columns: Columns, changed: Any) -> Iterator[Any]:
    engine = sa.create_engine(source.address() or "")
    # Keeps all digits of numbers in JSON that SQLAlchemy parses.
    engine.dialect._json_deserializer = json_values.read  # type: ignore[attr-defined]
    try:
        with engine.connect() as connection:
            table = _reflected(connection, source, columns)
            query = sa.select(
                *(_as_stored(column, columns) for column in _selected(table, columns))
            )
            if changed is not None and changed.last_value is not None:
                cursor = table.c[columns.table.cursor or ""]
                query = query.where((cursor >= changed.last_value) | cursor.is_(None))
            result = connection.execution_options(yield_per=_CHUNK).execute(query)
            empty = True
            for some in result.mappings().partitions():
                empty = False
                yield [dict(row) for row in some]
            if empty:
                yield _without_rows(_selected(table, columns), columns)
    finally:
        engine.dispose()


def _reflected(connection: Any, source: Source, columns: Columns) -> sa.Table:
    name = columns.table.source_name
    try:
        return sa.Table(name, sa.MetaData(), schema=source.schema_, autoload_with=connection)
    except sa.exc.NoSuchTableError:
        columns.refuse(f"there is no table {name}")


def _selected(table: sa.Table, columns: Columns) -> list[Any]:
    names = columns.table.columns or [column.name for column in table.columns]
    needed = {*names, *columns.table.key, *filter(None, [columns.table.cursor])}
    missing = needed - ({column.name for column in table.columns} & set(names))
    if missing:
        columns.refuse(f"there is no column {', '.join(sorted(missing))}")
    return [column for column in table.columns if column.name in names]


def _as_stored(column: Any, columns: Columns) -> Any:
    """A column with its values as SQLite stores them, which allows any value in any column.

    SQLAlchemy would round numbers to the scale of the column's type (ten places without one), treat
    everything but 0 as true, and fail at an invalid time without saying where.
    """
    as_text = columns.declared(columns.called(column.name)) == column_types.TEXT
    read = next(
        (read_value for kind, read_value in _READERS.items() if isinstance(column.type, kind)), None
    )
    if read is None or isinstance(column.type, sa.Float):
        return column
    return sa.type_coerce(column, _Stored(column.type, str if as_text else read)).label(column.name)


class _Stored(sa.types.TypeDecorator[Any]):
    """A type whose values are SQLite's raw values; with other databases, the type itself."""

    impl = sa.types.NullType
    cache_ok = False

    def __init__(self, kind: Any, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self._kind = kind
        self._read = read

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        """The wrapped type, except for SQLite."""
        return dialect.type_descriptor(
            self.impl_instance if dialect.name == "sqlite" else self._kind
        )

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """The converted value; one that does not have the type is returned unchanged."""
        if dialect.name != "sqlite" or value is None:
            return value
        try:
            return self._read(value)
        except (ValueError, TypeError):
            return value


def _number(value: Any) -> Any:
    return Decimal(repr(value)) if isinstance(value, int | float) else value


def _boolean(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


# How SQLite's value of a type is converted; raises ValueError or TypeError where it is not one.
_READERS: dict[type[Any], Callable[[Any], Any]] = {
    sa.Numeric: _number,
    sa.Boolean: _boolean,
    sa.DateTime: datetime.fromisoformat,
    sa.Date: date.fromisoformat,
    sa.Time: time.fromisoformat,
    sa.JSON: json_values.read,
}


def _without_rows(selected: list[Any], columns: Columns) -> Any:
    names = []
    for column in selected:
        names.append(columns.name(column.name))
        kinds = (kind for base, kind in _TYPES if isinstance(column.type, base))
        columns.see(names[-1], next(kinds, column_types.TEXT), "in the source")
    return columns.arrow({name: [] for name in names}, 0, str)
