"""Rows of Python values (from JSON or a database driver) as text columns for PostgreSQL."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID as Uuid

from resources.sync import json_values
from resources.sync.column_types import (
    BIGINT,
    BOOLEAN,
    BYTEA,
    DATE,
    DOUBLE,
    INTERVAL,
    JSONB,
    NUMERIC,
    TEXT,
    TIME,
    TIMESTAMP,
    TIMESTAMPTZ,
    TIMETZ,
    UUID,
)
from resources.sync.columns import Columns, row_name

# Only what PostgreSQL reads as the same time: with a zone, and no finer than a microsecond.
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
# PostgreSQL's `numeric` allows 131,072 digits before the point and 16,383 after it.
_MOST_DIGITS = 16_000


def columns_of(
    columns: Columns, rows: Sequence[Any], where: Callable[[int], str] | None = None, first: int = 1
) -> Any:
    """The rows as an Arrow table of text; `where` locates a row, by its index, in errors."""
    texts: dict[str, list[str | None]] = {}

    def place(index: int) -> str:
        row = rows[index] if isinstance(rows[index], Mapping) else {}
        called = row_name(columns.table.key, row, first + index)
        return f"{where(index)}, {called}" if where else called

    for index, row in enumerate(rows):
        for source, value in (row if isinstance(row, Mapping) else {"value": row}).items():
            if value is not None:
                column = columns.name(source)
                values = texts.get(column)
                if values is None:
                    values = texts[column] = [None] * len(rows)
                values[index] = _text(columns, column, value, lambda: place(index))  # noqa: B023
            else:
                columns.name(source)
    if not texts and rows:
        # Rows with only nulls count as rows, and need a column.
        for source in rows[0] if isinstance(rows[0], Mapping) else ():
            texts[columns.name(source)] = [None] * len(rows)
            columns.know(columns.name(source))
        if not texts:
            columns.refuse(f"{place(0)}: it is empty")
    return columns.arrow(texts, len(rows), place)


def texts_of(
    columns: Columns, column: str, values: Sequence[Any], where: Callable[[int], str]
) -> list[str | None]:
    """The values of one column."""
    return [
        None if value is None else _text(columns, column, value, lambda: where(index))  # noqa: B023
        for index, value in enumerate(values)
    ]


def _text(columns: Columns, column: str, value: Any, place: Callable[[], str]) -> str:
    try:
        kind, text = _written(value, columns.declared(column) == JSONB)
    except ValueError as error:
        columns.refuse_value(column, place(), str(error))
    if kind == TIMESTAMPTZ and isinstance(value, str) and not columns.times_in_text:
        kind = TEXT
    if not columns.has_seen(column, kind):
        columns.see(column, kind, place())
    return text


def _written(value: Any, as_json: bool) -> tuple[str, str]:
    """A value's type and its text; raises ValueError for one that PostgreSQL cannot hold."""
    if as_json or isinstance(value, dict | list | tuple):
        return JSONB, _json(value)
    write = _WRITERS.get(type(value))
    if write is None:
        raise ValueError(f"a {type(value).__name__} cannot be stored exactly")
    return write(value)


def _json(value: Any) -> str:
    text = json_values.write(value)
    # After an escaped backslash it is plain text.
    if "\\u0000" in text and re.search(r"(?<!\\)(?:\\\\)*\\u0000", text):
        raise ValueError("PostgreSQL's JSON cannot hold NUL")
    return text


def _string(value: str) -> tuple[str, str]:
    if len(value) in range(20, 33) and _MOMENT.fullmatch(value) and _is_time(value):
        return TIMESTAMPTZ, value
    return TEXT, value


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _whole(value: int) -> tuple[str, str]:
    if -(2**63) <= value < 2**63:
        return BIGINT, str(value)
    if value.bit_length() > 3 * _MOST_DIGITS:
        raise ValueError("the number is too large")
    # Python limits the digits of an int's text.

    return NUMERIC, str(Decimal(value))


def _decimal(value: Decimal) -> tuple[str, str]:
    if value.is_finite():
        exponent = int(value.as_tuple().exponent)
        if value.adjusted() > _MOST_DIGITS or -exponent > _MOST_DIGITS:
            raise ValueError("the number is too large, or too fine")
    elif value.is_snan():
        raise ValueError("a signalling NaN is not a number")
    return NUMERIC, str(value)


def _float(value: float) -> tuple[str, str]:
    return DOUBLE, repr(value)


def _datetime(value: datetime) -> tuple[str, str]:
    return TIMESTAMP if value.utcoffset() is None else TIMESTAMPTZ, value.isoformat()


def _time(value: time) -> tuple[str, str]:
    return TIME if value.utcoffset() is None else TIMETZ, value.isoformat()


def _interval(value: timedelta) -> tuple[str, str]:
    return INTERVAL, f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"


def _bytes(value: bytes | bytearray | memoryview) -> tuple[str, str]:
    return BYTEA, "\\x" + value.hex()


_WRITERS: dict[type, Callable[[Any], tuple[str, str]]] = {
    str: _string,
    bool: lambda value: (BOOLEAN, "true" if value else "false"),
    int: _whole,
    Decimal: _decimal,
    float: _float,
    datetime: _datetime,
    date: lambda value: (DATE, value.isoformat()),
    time: _time,
    timedelta: _interval,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    Uuid: lambda value: (UUID, str(value)),
}
