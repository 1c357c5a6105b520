"""Loads a source into its tables with dlt: reads it, determines the types of its columns, compares
them with those of the tables, then loads.

A table changes in one transaction, from a staging table; its watermark is stored with the load and
moves with it. So a crash at any time leaves the table either as it was or as it should be, and the
next load discards what remains of the crashed one. Rows go through files in chunks, so memory does
not grow with their number. Values stay text all the way (`destination`), so nothing alters them.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import dlt
from dlt.common.pipeline import LoadInfo
from dlt.pipeline.exceptions import PipelineStepFailed

from resources.settings import SyncSettings
from resources.sync import column_types, file_source, rest_source, sql_source
from resources.sync.columns import Columns
from resources.sync.destination import TYPE_HINT, exact_postgres
from resources.sync.dropped import restore_dropped
from resources.sync.errors import meaning
from resources.sync.schema import alter, changes_of, existing_columns
from resources.sync.source_config import Source
from runyard.errors import NonRetriable
from runyard.settings import settings
from runyard.store import database
from runyard.store.data_folder import make_folder

_FILE_ROWS = 400_000
_MOST_SHOWN = 100


class SchemaChanged(NonRetriable):
    """The schema of a source has changed, and the change needs approval."""


@dataclass
class Loaded:
    """The result of a load: rows by table, schema changes, notes about files, seconds; `applied` is
    False for a preview."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    changes: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    applied: bool = True


def load(source: Source, *, agree: bool = False, preview: bool = False) -> Loaded:
    """Load a source.

    Parameters
    ----------
    agree
        Approve a changed schema, where the source asks for that.
    preview
        Only read, and report what would change.

    Raises
    ------
    SchemaChanged
        The schema has changed without approval.
    NonRetriable
        The source is not switched on, rejects the request, or its data cannot be stored unchanged.
    RetryAfter
        The source asks us to wait.
    ConnectionError
        The source does not answer.
    """
    if source.address() is None:
        variables = ", ".join(source.variables())
        raise NonRetriable(f"the source {source.name} is not switched on: set {variables}")
    began = time.monotonic()
    columns = columns_of(source)
    pipeline = make_pipeline(source)
    try:
        pipeline.sync_destination()
        if pipeline.has_pending_data:
            # It is read again, from the watermark of the last completed load.
            pipeline.drop_pending_packages()
        restored = restore_dropped(pipeline, source)
        _forget_types(pipeline)
        if source.kind == "files":
            file_source.check_folder(source)
        pipeline.extract(make_source(source, columns))
        before = existing_columns(source.dataset)
        for name, table_columns in columns.items():
            table_columns.check_declared(before.get(name, {}))
        after = {
            name: table_columns.settle(before.get(name, {}))
            for name, table_columns in columns.items()
        }
        changes = _shortened(changes_of(before, after))
        notes = _shortened(
            [
                *restored,
                *(note for table_columns in columns.values() for note in table_columns.notes),
            ]
        )
        if preview:
            _forget(pipeline)
            seconds = time.monotonic() - began
            return Loaded(changes=changes, notes=notes, seconds=seconds, applied=False)
        if changes and before and source.changes == "ask" and not agree:
            raise SchemaChanged(
                f"the schema of {source.name} would change: {'; '.join(changes)}. Send "
                "sync/requested with agree: true to accept the change"
            )
        _set_types(pipeline, before, after)
        pipeline.normalize()
        trace = pipeline.last_trace
        rows = dict(trace.last_normalize_info.row_counts) if trace.last_normalize_info else {}
        alter(source.dataset, before, after)
        info: LoadInfo | None = pipeline.load()
        if info is not None:
            info.raise_on_failed_jobs()
    except PipelineStepFailed as error:
        meant = meaning(error, source)
        if isinstance(meant, NonRetriable):
            _forget(pipeline)
        raise meant from None
    except NonRetriable:
        # Otherwise a later load would create the columns of this one.
        _forget(pipeline)
        raise
    counts = {table.name: int(rows.get(table.name, 0)) for table in source.table}
    return Loaded(counts, changes, notes, time.monotonic() - began)


def columns_of(source: Source) -> dict[str, Columns]:
    """The columns of a source's tables, still without values."""
    columns = {}
    for table in source.table:
        is_csv = source.kind == "files" and table.format == "csv"
        is_json = source.kind == "rest" or (source.kind == "files" and table.format == "jsonl")
        columns[table.name] = Columns(
            table,
            as_text=is_csv or source.is_postgres(),
            times_in_text=is_json,
            names_are_certain=not is_json,
        )
    return columns


def make_pipeline(source: Source) -> Any:
    """The pipeline of a source; its files are in SYNC_FOLDER."""
    for name, value in {
        "load.truncate_staging_dataset": True,
        "destination.replace_strategy": "insert-from-staging",
        "runtime.dlthub_telemetry": False,
        # Chunks are written as they are read.
        "data_writer.buffer_max_items": 1,
        "data_writer.file_max_items": _FILE_ROWS,
        "schema.naming": "resources.sync.naming",
        # From snake_case, which earlier loads used for names; the current convention keeps those.
        "schema.allow_identifier_change_on_table_with_data": True,
        "normalize.parquet_normalizer.add_dlt_id": source.kind != "sql",
        "normalize.parquet_normalizer.add_dlt_load_id": source.kind != "sql",
    }.items():
        dlt.config[name] = value
    pipeline = dlt.pipeline(
        f"runyard_{source.name}",
        pipelines_dir=str(_folder()),
        destination=exact_postgres(credentials=_credentials(database.database_url())),
        dataset_name=source.dataset,
    )
    # It warns about differing types, which are intended here.
    logging.getLogger("dlt").setLevel(logging.ERROR)
    return pipeline


def declared_pipeline(source: Source) -> Any:
    """A pipeline for asset metadata only: where the code is loaded there may be no database."""
    return dlt.pipeline(
        f"declared_{source.name}",
        pipelines_dir=str(_folder() / "declared"),
        destination="postgres",
        dataset_name=source.dataset,
    )


def _folder() -> Path:
    folder = Path(SyncSettings.read().sync_folder or settings().data / "sync")
    make_folder(folder)
    return folder


def make_source(source: Source, columns: Mapping[str, Columns] | None = None) -> Any:
    """The source for dlt; it makes no requests yet."""
    columns = columns or columns_of(source)
    makers = {
        "rest": rest_source.resource,
        "sql": sql_source.resource,
        "files": file_source.resource,
    }
    make = makers[source.kind]
    resources = [
        _hinted(make(source, table, columns[table.name]), columns[table.name])
        for table in source.table
    ]

    @dlt.source(name=source.name, max_table_nesting=0)
    def declared_source() -> Any:
        return resources

    return declared_source()


def _hinted(resource: Any, columns: Columns) -> Any:
    table = columns.table
    hints: Any = {}
    if table.deleted:
        deleted = columns.called(table.deleted)
        hints[deleted] = {"name": deleted, "hard_delete": True}
    if table.cursor:
        # Of several rows with one key in one load, the newest is kept.
        cursor = columns.called(table.cursor)
        hints[cursor] = {"name": cursor, "dedup_sort": "desc", **hints.get(cursor, {})}
    resource.apply_hints(
        table_name=table.name,
        primary_key=columns.key or None,
        write_disposition="merge" if table.key else "replace",
        columns=hints,
    )
    return resource


def _data_columns(pipeline: Any) -> dict[str, dict[str, Any]]:
    """The columns of the data tables in the pipeline's schema; none before the first load."""
    if not pipeline.default_schema_name:
        return {}
    return {table["name"]: table["columns"] for table in pipeline.default_schema.data_tables()}


def _forget_types(pipeline: Any) -> None:
    """Read all columns as text; their types in the database are looked up there."""
    for columns in _data_columns(pipeline).values():
        for column in columns.values():
            if column.get("data_type"):
                column["data_type"] = "text"


def _set_types(
    pipeline: Any, before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> None:
    """Give each column the type that it has, or will have, in the database."""
    for name, columns in _data_columns(pipeline).items():
        types = {**before.get(name, {}), **after.get(name, {})}
        for column, kind in types.items():
            if column in columns:
                columns[column][TYPE_HINT] = kind
                # dlt needs this to recognise the flag of deleted rows.
                is_flag = kind == column_types.BOOLEAN
                columns[column]["data_type"] = "bool" if is_flag else "text"


def _shortened(lines: list[str]) -> list[str]:
    """Few and short enough to be stored as a step's output, whatever a source comes up with."""
    shown = [line if len(line) <= 1_000 else line[:1_000] + "..." for line in lines[:_MOST_SHOWN]]
    if len(lines) > _MOST_SHOWN:
        shown.append(f"and {len(lines) - _MOST_SHOWN} more")
    # File names may not be valid Unicode.
    return [line.encode(errors="replace").decode() for line in shown]


def _forget(pipeline: Any) -> None:
    """Discard what was read and learnt, so that the next load starts from what is in the
    database."""
    pipeline.deactivate()
    shutil.rmtree(pipeline.working_dir, ignore_errors=True)


def _credentials(url: str) -> Any:
    """The database's credentials for dlt; of a server on a Unix socket, the host is the folder of
    the socket."""
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    credentials: Any = PostgresCredentials()
    credentials.database = parts.path.lstrip("/")
    credentials.username = unquote(parts.username or "postgres")
    credentials.password = unquote(parts.password or "") or "none"
    credentials.host = quote(query.pop("host", ""), safe="") or parts.hostname or "localhost"
    credentials.port = int(query.pop("port", None) or parts.port or 5432)
    credentials.query = query
    credentials.resolve()
    return credentials
