"""The rows of files: CSV, JSON lines, Parquet."""

from collections.abc import Iterable, Iterator
from typing import Any

import dlt
from dlt.sources.filesystem import filesystem

from resources import sync_csv, sync_json, sync_parquet, sync_rows
from resources.sync_columns import Columns, Refused
from resources.sync_sources import Source, Table

_ROWS = 5_000
_BYTES = 16 << 20


def resource(source: Source, table: Table, columns: Columns) -> Any:
    """The table as dlt takes it: the files, and behind them their rows."""
    files = filesystem(source.address() or "", file_glob=table.pattern or "*")
    if table.key:
        # Files that have not changed since the last load are not read again.
        files.apply_hints(incremental=dlt.sources.incremental("modification_date"))

    def rows(items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield from _read(item, table, columns)

    return files | dlt.transformer(rows, name=table.name)


def _read(item: Any, table: Table, columns: Columns) -> Iterator[Any]:
    name = str(item["file_name"])
    match table.format:
        case "csv":
            yield from sync_csv.read_tables(name, lambda: item.open("rb"), columns)
        case "jsonl":
            with item.open("rb") as file:
                yield from _lines(name, file, columns)
        case "parquet":
            with item.open("rb") as file:
                yield from sync_parquet.read_tables(name, file, columns)


def _lines(name: str, file: Any, columns: Columns) -> Iterator[Any]:
    rows: list[Any] = []
    lines: list[int] = []
    size = 0

    def columns_of() -> Any:
        # A copy: errors ask for a line before the next ones are read.
        places = list(lines)
        return sync_rows.columns_of(columns, rows, lambda index: f"{name}, line {places[index]}")

    try:
        for line, length, row in sync_json.read_lines(file):
            rows.append(row)
            lines.append(line)
            size += length
            if len(rows) >= _ROWS or size >= _BYTES:
                yield columns_of()
                rows, lines, size = [], [], 0
    except ValueError as error:
        raise Refused(f"{columns.table.name}: {name}, {error}") from None
    if rows:
        yield columns_of()
