"""Arrow columns (of Parquet files) as text columns, each value unchanged."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile

from resources.sync import text_columns
from resources.sync.column_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    JSONB,
    NUMERIC,
    TEXT,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
)
from resources.sync.columns import Columns, Refused, row_name

_ROWS = 5_000


def read_tables(name: str, file: Any, columns: Columns) -> Iterator[pa.Table]:
    """The rows of a file; raises `Refused` with column and row."""
    try:
        parquet = ParquetFile(file)
        names = parquet.schema_arrow.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            columns.refuse(f"{name}: two columns have the name {twice[:60]!r}")
        yield _exact(name, parquet.schema_arrow.empty_table(), 0, columns)
        done = 0
        for batch in parquet.iter_batches(batch_size=_ROWS):
            yield _exact(name, pa.Table.from_batches([batch]), done, columns)
            done += batch.num_rows
    except pa.ArrowException as error:
        refused = f"{columns.table.name}: {name} cannot be read: {str(error)[:300]}"
        raise Refused(refused) from None


def _exact(name: str, table: pa.Table, done: int, columns: Columns) -> pa.Table:
    def where(index: int) -> str:
        names = [name for name in columns.table.key if name in table.schema.names]
        key = {name: table[name][index].as_py() for name in names}
        return f"{name}, {row_name(columns.table.key, key, done + index + 1)}"

    texts: dict[str, Any] = {}
    for source, array in zip(table.schema.names, table.columns, strict=True):
        column = columns.name(source)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_null(array.type) and not _is_all_null(table):
            continue
        as_json = columns.declared(column) == JSONB
        written = None if as_json else _written(array, columns, column, where)
        if written is None:
            texts[column] = text_columns.texts_of(columns, column, array.to_pylist(), where)
        else:
            kind, texts[column] = written
            columns.know(column)
            columns.see(column, kind, where(0) if len(table) else name)
    return columns.arrow(texts, len(table), where)


def _is_all_null(table: pa.Table) -> bool:
    """Whether no column has a type; such rows count all the same."""
    return all(pa.types.is_null(column.type) for column in table.columns)


def _written(array: Any, columns: Columns, column: str, where: Callable[[int], str]) -> Any:
    """The type and the text of a column; None where each value has to be converted by itself."""
    kind = array.type
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        return TEXT, array.cast(pa.string())
    if types.is_boolean(kind):
        return BOOLEAN, array.cast(pa.string())
    if types.is_integer(kind):
        return NUMERIC if kind == pa.uint64() else BIGINT, array.cast(pa.string())
    if types.is_floating(kind):
        real = kind != pa.float64()
        array = array.cast(pa.float32()) if kind == pa.float16() else array
        return "real" if real else DOUBLE, array.cast(pa.string())
    if types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})", array.cast(pa.string())
    if types.is_date(kind):
        text = array.cast(pa.date32()).cast(pa.string())
        return DATE, _in_range(text, columns, column, where)
    if types.is_time(kind):
        return TIME, _micros(array, pa.time64("us"), columns, column, where).cast(pa.string())
    if types.is_timestamp(kind):
        exact = _micros(array, pa.timestamp("us", kind.tz), columns, column, where)
        text = exact.cast(pa.timestamp("us")).cast(pa.string())
        _in_range(text, columns, column, where)
        if kind.tz is None:
            return TIMESTAMP, text
        return TIMESTAMPTZ, pc.binary_join_element_wise(text, "Z", "")
    return None


def _in_range(text: Any, columns: Columns, column: str, where: Callable[[int], str]) -> Any:
    row = pc.index(pc.match_substring_regex(text, "^[0-9]{4,6}-"), False).as_py()
    if row >= 0:
        columns.refuse_value(column, where(row), "its year is before 1, or too large")
    return text


def _micros(
    array: Any, kind: Any, columns: Columns, column: str, where: Callable[[int], str]
) -> Any:
    """Convert to microseconds, PostgreSQL's resolution; refuses what is finer."""
    try:
        return array.cast(kind)
    except pa.ArrowInvalid:
        fine = pc.not_equal(pc.cast(array.cast(kind, safe=False), array.type, safe=False), array)
        row = pc.index(fine, True).as_py()
        columns.refuse_value(column, where(max(row, 0)), "it is finer than a microsecond")
