"""Loads a source into its tables with dlt: read, normalized, its schema compared, then loaded.

A table changes in one transaction, out of a staging table; its watermark is kept with the load and moves with it. So a kill at any time leaves it as it was or as
it is to be; what was left of a load is thrown away by the next one. Rows go through files in pieces, so that memory does not grow with them.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import dlt
import requests
from dlt.common.pipeline import LoadInfo
from dlt.pipeline.exceptions import PipelineStepFailed
from dlt.sources.filesystem import filesystem, read_csv, read_jsonl, read_parquet
from dlt.sources.helpers.rest_client import paginators
from dlt.sources.helpers.rest_client.client import RESTClient
from dlt.sources.sql_database import sql_table
from requests.adapters import HTTPAdapter

from resources.sync_sources import Source, Table
from runyard.errors import NonRetriable, RetryAfter
from runyard.private_folders import make_folder
from runyard.settings import settings
from runyard.store import database

_CHUNK = 20_000
_SECONDS = 60.0
_PAGE_SECONDS = 600.0
_MOST_PAGE_BYTES = 256 << 20
_PIECE = 1 << 16
_OWN_COLUMNS = ("_dlt_id", "_dlt_load_id")


class SchemaChanged(NonRetriable):
    """Seen by whoever looks after a source: its tables look different now, and somebody has to agree."""


class _NotModified(Exception):
    """The rows are those of the last load."""


@dataclass
class Loaded:
    """What a load has done: rows by table, changes of the schema, seconds; `applied` is False for a look without a load."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    changes: list[str] = field(default_factory=list[str])
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
        The source is not switched on, or refuses.
    RetryAfter
        The source asks to wait.
    ConnectionError
        It does not answer.
    """
    if source.address() is None:
        raise NonRetriable(f"the source {source.name} is not switched on: set {', '.join(source.wants())}")
    began = time.monotonic()
    pipeline = make_pipeline(source)
    try:
        pipeline.sync_destination()
        if pipeline.has_pending_data:
            pipeline.drop_pending_packages()  # it is read again, from the watermark of the last load that was completed
        before = _columns(pipeline)
        pipeline.extract(make_source(source))
        pipeline.normalize()
        changes = _changes(before, _columns(pipeline))
        if preview or (changes and before and source.changes == "ask" and not agree):
            _forget(pipeline)
            if preview:
                return Loaded(changes=changes, seconds=time.monotonic() - began, applied=False)
            raise SchemaChanged(f"the schema of {source.name} would change: {'; '.join(changes)}. Send sync/requested with agree: true to take it")
        rows = dict(pipeline.last_trace.last_normalize_info.row_counts) if pipeline.last_trace and pipeline.last_trace.last_normalize_info else {}
        info: LoadInfo | None = pipeline.load()
        if info is not None:
            info.raise_on_failed_jobs()
    except PipelineStepFailed as error:
        raise _meaning(error, source) from None
    return Loaded({table.name: int(rows.get(table.name, 0)) for table in source.table}, changes, time.monotonic() - began)


def make_pipeline(source: Source) -> Any:
    """The pipeline of a source; its files are in SYNC_FOLDER, or `sync` in the data folder."""
    destination = dlt.destinations.postgres(credentials=_credentials(database.database_url()))
    dlt.config["load.truncate_staging_dataset"] = True
    dlt.config["destination.replace_strategy"] = "insert-from-staging"
    dlt.config["runtime.dlthub_telemetry"] = False
    dlt.config["data_writer.buffer_max_items"] = _CHUNK
    dlt.config["data_writer.file_max_items"] = 20 * _CHUNK
    return dlt.pipeline(f"runyard_{source.name}", pipelines_dir=str(_folder()), destination=destination, dataset_name=source.dataset)


def declared_pipeline(source: Source) -> Any:
    """A pipeline that only says what it is: where the code is loaded there may be no database yet."""
    return dlt.pipeline(f"declared_{source.name}", pipelines_dir=str(_folder() / "declared"), destination="postgres", dataset_name=source.dataset)


def _folder() -> Path:
    folder = Path(os.environ.get("SYNC_FOLDER") or settings().data / "sync")
    make_folder(folder)
    return folder


def make_source(source: Source) -> Any:
    """The source as dlt takes it; nothing is asked of it yet."""
    makers = {"rest": _rest, "sql": _sql, "files": _files}
    resources = [_hinted(makers[source.kind](source, table), table) for table in source.table]

    @dlt.source(name=source.name, max_table_nesting=0)
    def made() -> Any:
        return resources

    return made()


def _hinted(resource: Any, table: Table) -> Any:
    resource.apply_hints(
        table_name=table.name, primary_key=table.key or None, write_disposition="merge" if table.key else "replace",
        columns={table.deleted: {"name": table.deleted, "hard_delete": True}} if table.deleted else None,
    )  # fmt: skip
    return resource


def _rest(source: Source, table: Table) -> Any:
    cursor: Any = dlt.sources.incremental(table.cursor, on_cursor_value_missing="include") if table.cursor else None

    def rows(changed: Any = cursor) -> Iterator[Any]:
        headers = {"Authorization": f"Bearer {os.environ[source.token_env]}"} if source.token_env else {}
        state = dlt.current.resource_state() if table.etag else {}
        if state.get("etag"):
            headers["If-None-Match"] = state["etag"]
        params = {table.cursor_param: changed.last_value} if changed is not None and table.cursor_param and changed.last_value is not None else {}
        session = requests.Session()
        session.mount("https://", _BoundedAdapter())
        session.mount("http://", _BoundedAdapter())
        with session:
            client = RESTClient(source.address() or "", headers=headers, paginator=_paginator(table), session=session, data_selector=table.rows)
            with suppress(_NotModified):
                for page in client.paginate(table.path or "", params=params, hooks={"response": [_check]}, timeout=_SECONDS):
                    if table.etag:
                        state["etag"] = page.response.headers.get("ETag")
                    yield list(page)

    return dlt.resource(rows, name=table.name)


class _BoundedAdapter(HTTPAdapter):
    """Reads each answer within bounds of its own; the timeouts of requests are for single reads."""

    def send(self, request: requests.PreparedRequest, *_: Any, **more: Any) -> requests.Response:
        """The answer, its body read; raises `NonRetriable` for one that is too large, requests.Timeout for one that takes too long."""
        response = super().send(request, **{**more, "stream": True})
        until, pieces, size = time.monotonic() + _PAGE_SECONDS, [], 0
        try:
            for piece in response.iter_content(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > _MOST_PAGE_BYTES:
                    raise NonRetriable(f"{(request.url or '').partition('?')[0]} answers with more than {_MOST_PAGE_BYTES >> 20} MiB: ask for smaller pages (page_size)")
                if time.monotonic() > until:
                    raise requests.Timeout(f"a page takes longer than {_PAGE_SECONDS:g} s")
        except BaseException:
            response.close()
            raise
        # Where requests itself keeps a body that it has read.
        response._content = b"".join(pieces)
        return response


def _paginator(table: Table) -> Any:
    match table.pages:
        case "offset":
            return paginators.OffsetPaginator(limit=table.page_size, total_path=None)
        case "page":
            return paginators.PageNumberPaginator(base_page=1, total_path=None)
        case "cursor":
            return paginators.JSONResponseCursorPaginator(cursor_path=table.next_path, cursor_param=table.next_path)
        case "link":
            return paginators.HeaderLinkPaginator()
        case _:
            return paginators.SinglePagePaginator()


def _check(response: requests.Response, *_: Any, **__: Any) -> None:
    """What an answer means: raised here, for it is known here alone."""
    status = response.status_code
    if status == 304:
        raise _NotModified
    if status == 429:
        wait = response.headers.get("Retry-After") or ""
        reset = response.headers.get("X-RateLimit-Reset") or ""
        pause = float(wait) if wait.isdecimal() else max(0.0, float(reset) - time.time()) if reset.isdecimal() else 30.0
        raise RetryAfter(f"{response.url.partition('?')[0]} answers 429", pause)
    if status >= 500 or status == 408:
        raise ConnectionError(f"{response.url.partition('?')[0]} answers {status}")
    if status >= 400:
        raise NonRetriable(f"{response.url.partition('?')[0]} answers {status}: {response.text[:200]}")


def _sql(source: Source, table: Table) -> Any:
    url = source.address() or ""
    cursor: Any = dlt.sources.incremental(table.cursor, on_cursor_value_missing="include") if table.cursor else None
    return sql_table(
        url.replace("postgres://", "postgresql://", 1).replace("postgresql://", "postgresql+psycopg://", 1), table.name, schema=source.schema_, incremental=cursor,
        chunk_size=_CHUNK, backend="pyarrow", included_columns=table.columns or None, defer_table_reflect=True, reflection_level="full",
    )  # fmt: skip


def _files(source: Source, table: Table) -> Any:
    readers: dict[str, Any] = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet}
    found = filesystem(source.address() or "", file_glob=table.pattern or "*")
    if table.key:
        # Files that have not changed since the last load are not read again.
        found.apply_hints(incremental=dlt.sources.incremental("modification_date"))
    return (found | readers[table.format]()).with_name(table.name)


def _columns(pipeline: Any) -> dict[str, dict[str, str]]:
    """The data tables of the pipeline's schema with the types of their columns; empty before the first load."""
    if not pipeline.default_schema_name:
        return {}
    return {
        name: {column: str(about.get("data_type", "?")) for column, about in table["columns"].items() if column not in _OWN_COLUMNS and about.get("data_type")}
        for name, table in pipeline.default_schema.tables.items()
        if not name.startswith("_dlt")
    }


def _changes(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    found = [f"new table {name} ({', '.join(columns)})" for name, columns in after.items() if name not in before and columns]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        found += [f"new column {name}.{column} ({kind})" for column, kind in new.items() if column not in old]
        found += [f"{name}.{column} is {new[column]}, was {kind}" for column, kind in old.items() if column in new and new[column] != kind]
    return sorted(found)


def _forget(pipeline: Any) -> None:
    """Throw away what was read and what was learnt of it; the next time begins from what is in the database."""
    pipeline.deactivate()
    shutil.rmtree(pipeline.working_dir, ignore_errors=True)


def _meaning(error: Exception, source: Source) -> Exception:
    """The error that a step of dlt has failed with, as what it means for another attempt."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RetryAfter | NonRetriable):
            return cause
        if isinstance(cause, requests.ConnectionError | requests.Timeout | ConnectionError):
            return ConnectionError(f"{source.name} does not answer: {type(cause).__name__}: {str(cause)[:200]}")
        if isinstance(cause, requests.JSONDecodeError):
            return ConnectionError(f"{source.name} answers what is no JSON")
        cause = cause.__cause__ or cause.__context__
    return RuntimeError(f"{source.name} cannot be loaded: {_last(error)}")


def _last(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return f"{type(error).__name__}: {str(error)[:300]}"


def _credentials(url: str) -> Any:
    """The database as dlt takes it: also one that listens on a Unix socket alone, whose folder is then the host."""
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials

    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    made: Any = PostgresCredentials()
    made.database = parts.path.lstrip("/")
    made.username, made.password = unquote(parts.username or "postgres"), unquote(parts.password or "") or "none"
    made.host, made.port = quote(query.pop("host", ""), safe="") or parts.hostname or "localhost", int(query.pop("port", None) or parts.port or 5432)
    made.query = query
    made.resolve()
    return made
