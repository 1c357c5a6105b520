"""The rows of files: CSV, JSON lines, Parquet."""

import zlib
from collections.abc import Iterable, Iterator
from gzip import BadGzipFile
from hashlib import sha256
from pathlib import Path
from typing import Any

import dlt
from dlt.common.storages.configuration import FilesystemConfiguration
from dlt.sources.filesystem import filesystem

from resources.sync import csv_files, json_values, parquet_files, text_columns
from resources.sync.columns import Columns, Refused
from resources.sync.source_config import Source, Table

_ROWS = 5_000
_BYTES = 16 << 20


def resource(source: Source, table: Table, columns: Columns) -> Any:
    """A table as a dlt resource: the files, then their rows."""

    def files() -> Iterator[Any]:
        any_file = False
        for item in filesystem(source.address() or "", file_glob=table.pattern or "*"):
            any_file = True
            yield [item]
        if not any_file:
            _no_file(table, columns)

    def rows(items: Iterable[Any]) -> Iterator[Any]:
        known = dlt.current.resource_state().setdefault("files", {}) if table.key else None
        for item in items:
            if known is not None:
                # Unchanged files are not read again, whatever their times: copied and unpacked
                # files have older ones.
                stamp = _stamp(item)
                if stamp in known:
                    continue
                known[stamp] = 1
            yield from _read(item, table, columns)

    return dlt.resource(files, name=f"{table.name}_files") | dlt.transformer(rows, name=table.name)


def _no_file(table: Table, columns: Columns) -> None:
    """A missing file is fine for a table with a key; without a key it would empty the table."""
    what = f"no file matches {table.pattern}"
    if table.key:
        columns.notes.append(f"{table.name}: {what}")
    else:
        columns.refuse(f"{what}: for an empty table, provide a file with only its header")


def _stamp(item: Any) -> str:
    """A file's fingerprint: its URL, its size and its time."""
    said = f"{item['file_url']} {item['size_in_bytes']} {item['modification_date'].isoformat()}"
    return sha256(said.encode(errors="surrogateescape")).hexdigest()[:20]


def check_folder(source: Source) -> None:
    """Raise `Refused` for a local folder that does not exist: its tables would be emptied."""
    address = source.address() or ""
    if not FilesystemConfiguration.is_local_path(address):
        if not address.startswith("file:"):
            return
        address = FilesystemConfiguration.make_local_path(address)
    if not Path(address).is_dir():
        raise Refused(f"{source.name}: there is no folder {address}")


def _read(item: Any, table: Table, columns: Columns) -> Iterator[Any]:
    try:
        yield from _tables(item, table, columns)
    except (EOFError, BadGzipFile, zlib.error) as error:
        name = item["file_name"]
        raise Refused(f"{table.name}: {name} cannot be unpacked: {error}") from None


def _tables(item: Any, table: Table, columns: Columns) -> Iterator[Any]:
    name = str(item["file_name"])
    match table.format:
        case "csv":
            yield from csv_files.read_tables(name, lambda: item.open("rb"), columns)
        case "jsonl":
            with item.open("rb") as file:
                yield from _lines(name, file, columns)
        case "parquet":
            with item.open("rb") as file:
                yield from parquet_files.read_tables(name, file, columns)


def _lines(name: str, file: Any, columns: Columns) -> Iterator[Any]:
    rows: list[Any] = []
    lines: list[int] = []
    size = 0

    def columns_of() -> Any:
        # A copy, because errors look up lines after the next ones are read.
        places = list(lines)
        return text_columns.columns_of(columns, rows, lambda index: f"{name}, line {places[index]}")

    try:
        for line, length, row in json_values.read_lines(file):
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
