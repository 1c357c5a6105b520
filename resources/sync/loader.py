"""Loads a source into its tables with dlt: read, its columns' types settled and compared with
those of the tables, then loaded.

A table changes in one transaction, out of a staging table; its watermark is kept with the load and
moves with it. So a kill at any time leaves it as it was or as it is to be; what was left of a load
is thrown away by the next one. Rows go through files in pieces, so that memory does not grow with
them. Values are text on the whole way (`sync_destination`), so that nothing changes them.
"""

import logging
import os
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
    """Seen by whoever looks after a source: its tables look different now, and somebody has to
    agree."""


@dataclass
class Loaded:
    """What a load has done: rows by table, changes of the schema, what was found out about files,
    seconds; `applied` is False for a look without a load."""

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
        Take a changed schema, where the source asks.
    preview
        Only read, and say what would change.

    Raises
    ------
    SchemaChanged
        The schema has changed, and nobody has agreed.
    NonRetriable
        The source is not switched on, or refuses, or gives what cannot be kept as it is.
    RetryAfter
        The source asks to wait.
    ConnectionError
        It does not answer.
    """
    if source.address() is None:
        wants = ", ".join(source.wants())
        raise NonRetriable(f"the source {source.name} is not switched on: set {wants}")
    began = time.monotonic()
    columns = columns_of(source)
    pipeline = make_pipeline(source)
    try:
        pipeline.sync_destination()
        if pipeline.has_pending_data:
            # It is read again, from the watermark of the last load that was completed.
            pipeline.drop_pending_packages()
        found = restore_dropped(pipeline, source)
        _forget_types(pipeline)
        if source.kind == "files":
            file_source.check_folder(source)
        pipeline.extract(make_source(source, columns))
        before = existing_columns(source.dataset)
        for name, one in columns.items():
            one.check_declared(before.get(name, {}))
        after = {name: one.settle(before.get(name, {})) for name, one in columns.items()}
        changes = _shortened(changes_of(before, after))
        notes = _shortened([*found, *(note for one in columns.values() for note in one.notes)])
        if preview:
            _forget(pipeline)
            seconds = time.monotonic() - began
            return Loaded(changes=changes, notes=notes, seconds=seconds, applied=False)
        if changes and before and source.changes == "ask" and not agree:
            raise SchemaChanged(
                f"the schema of {source.name} would change: {'; '.join(changes)}. Send sync/requested with agree: true to take it"
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
        # Or a later load would make the columns of this one.
        _forget(pipeline)
        raise
    counts = {table.name: int(rows.get(table.name, 0)) for table in source.table}
    return Loaded(counts, changes, notes, time.monotonic() - began)


def columns_of(source: Source) -> dict[str, Columns]:
    """The columns of a source's tables, none of which has been seen yet."""
    made = {}
    for table in source.table:
        is_csv = source.kind == "files" and table.format == "csv"
        is_json = source.kind == "rest" or (source.kind == "files" and table.format == "jsonl")
        made[table.name] = Columns(
            table,
            as_text=is_csv or source.is_postgres(),
            times_in_text=is_json,
            names_are_certain=not is_json,
        )
    return made


def make_pipeline(source: Source) -> Any:
    """The pipeline of a source; its files are in SYNC_FOLDER, or `sync` in the data folder."""
    for name, value in {
        "load.truncate_staging_dataset": True,
        "destination.replace_strategy": "insert-from-staging",
        "runtime.dlthub_telemetry": False,
        # The pieces that are written are as large as they are read.
        "data_writer.buffer_max_items": 1,
        "data_writer.file_max_items": _FILE_ROWS,
        "schema.naming": "resources.sync.naming",
        # From snake_case, in which tables of earlier loads were named: what that has made, the
        # present one leaves as it is.
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
    # It warns of types that differ, which here is as it should be.
    logging.getLogger("dlt").setLevel(logging.ERROR)
    return pipeline


def declared_pipeline(source: Source) -> Any:
    """A pipeline that only says what it is: where the code is loaded there may be no database."""
    return dlt.pipeline(
        f"declared_{source.name}",
        pipelines_dir=str(_folder() / "declared"),
        destination="postgres",
        dataset_name=source.dataset,
    )


def _folder() -> Path:
    folder = Path(os.environ.get("SYNC_FOLDER") or settings().data / "sync")
    make_folder(folder)
    return folder


def make_source(source: Source, columns: Mapping[str, Columns] | None = None) -> Any:
    """The source as dlt takes it; nothing is asked of it yet."""
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
    def made() -> Any:
        return resources

    return made()


def _hinted(resource: Any, columns: Columns) -> Any:
    table = columns.table
    hints: Any = {}
    if table.deleted:
        deleted = columns.called(table.deleted)
        hints[deleted] = {"name": deleted, "hard_delete": True}
    if table.cursor:
        # Of the rows with one key in one load, the newest stays.
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
    """All columns are read as text; what they are in the database is in the database."""
    for columns in _data_columns(pipeline).values():
        for column in columns.values():
            if column.get("data_type"):
                column["data_type"] = "text"


def _set_types(
    pipeline: Any, before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> None:
    """Give each column the type that it has, or is to have, in the database."""
    for name, columns in _data_columns(pipeline).items():
        types = {**before.get(name, {}), **after.get(name, {})}
        for column, kind in types.items():
            if column in columns:
                columns[column][TYPE_HINT] = kind
                # By this alone dlt knows how a column says that its row is deleted.
                is_flag = kind == column_types.BOOLEAN
                columns[column]["data_type"] = "bool" if is_flag else "text"


def _shortened(lines: list[str]) -> list[str]:
    """So few that they can be kept with the step, whatever a source comes up with."""
    shown = [line if len(line) <= 1_000 else line[:1_000] + "..." for line in lines[:_MOST_SHOWN]]
    if len(lines) > _MOST_SHOWN:
        shown.append(f"and {len(lines) - _MOST_SHOWN} more")
    # The names of files may be no Unicode.
    return [line.encode(errors="replace").decode() for line in shown]


def _forget(pipeline: Any) -> None:
    """Throw away what was read and what was learnt of it; the next time begins from what is in the
    database."""
    pipeline.deactivate()
    shutil.rmtree(pipeline.working_dir, ignore_errors=True)


def _credentials(url: str) -> Any:
    """The database as dlt takes it: also one that listens on a Unix socket alone, whose folder is
    then the host."""
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    made: Any = PostgresCredentials()
    made.database = parts.path.lstrip("/")
    made.username = unquote(parts.username or "postgres")
    made.password = unquote(parts.password or "") or "none"
    made.host = quote(query.pop("host", ""), safe="") or parts.hostname or "localhost"
    made.port = int(query.pop("port", None) or parts.port or 5432)
    made.query = query
    made.resolve()
    return made
