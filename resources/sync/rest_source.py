"""The rows of a REST API, a page at a time."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from email.message import Message
from typing import Any

import dlt
import requests
import simplejson
from dlt.common import jsonpath
from dlt.sources.helpers.rest_client import paginators
from dlt.sources.helpers.rest_client.client import RESTClient
from requests.adapters import HTTPAdapter

from resources.sync import json_values, text_columns
from resources.sync.columns import Columns, Refused
from resources.sync.source_config import Source, Table
from runyard.errors import NonRetriable, RetryAfter

_SECONDS = 60.0
_PAGE_SECONDS = 600.0
_MOST_PAGE_BYTES = 256 << 20
_PIECE = 1 << 16
_ROWS = 5_000
_PLAIN_PATH = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.\[\]*'-]*")


class _Client(RESTClient):
    """Refuses an answer without rows where they should be, because it would empty the table."""

    def extract_response(self, response: requests.Response, data_selector: Any) -> Any:
        """The rows."""
        # A wildcard matches nothing in an empty list.
        values = jsonpath.find_values(data_selector, response.json())
        if not values and "*" not in str(data_selector):
            url = _called(response.url)
            raise Refused(f"{url} answers without rows at {data_selector}: {response.text[:200]}")
        rows = values[0] if len(values) == 1 else values
        if isinstance(rows, dict) and (rows.get("error") or rows.get("errors")):
            url = _called(response.url)
            raise Refused(f"{url} answers with an error in place of rows: {response.text[:200]}")
        if rows is None:
            return []
        # A page is a list of rows, and anything else is one row.
        return rows if isinstance(rows, list) else [rows]


class _NotModified(Exception):
    """The rows have not changed since the last load."""


def resource(source: Source, table: Table, columns: Columns) -> Any:
    """A table as a dlt resource: its pages, then their columns."""
    cursor = _cursor(table)

    def pages(changed: Any = cursor) -> Iterator[Any]:
        headers = {}
        if source.token_env:
            headers["Authorization"] = f"Bearer {os.environ[source.token_env]}"
        state = dlt.current.resource_state() if table.etag else {}
        if state.get("etag"):
            headers["If-None-Match"] = state["etag"]
        params = {}
        if changed is not None and table.cursor_param and changed.last_value is not None:
            params[table.cursor_param] = changed.last_value
        with _session() as session, suppress(_NotModified):
            client = _Client(
                source.address() or "",
                headers=headers,
                paginator=_paginator(table),
                session=session,
                data_selector=table.rows,
            )
            hooks: Any = {"response": [_check]}
            for page in client.paginate(
                table.path or "", params=params, hooks=hooks, timeout=_SECONDS
            ):
                if table.etag:
                    state["etag"] = page.response.headers.get("ETag")
                yield list(page)

    done = 0

    def as_columns(rows: Any) -> Iterator[Any]:
        nonlocal done
        rows = rows if isinstance(rows, list) else [rows]
        for first in range(0, len(rows), _ROWS):
            some = rows[first : first + _ROWS]
            yield text_columns.columns_of(columns, some, first=done + 1)
            done += len(some)

    source_pages = dlt.resource(pages, name=f"{table.name}_pages")
    return source_pages | dlt.transformer(as_columns, name=table.name)


def _cursor(table: Table) -> Any:
    """The cursor. Rows at the watermark itself are read again: more may have the same value."""
    if table.cursor is None:
        return None
    plain = _PLAIN_PATH.fullmatch(table.cursor)
    return dlt.sources.incremental(
        table.cursor if plain else f"'{table.cursor}'",
        on_cursor_value_missing="include",
        last_value_func=newest,
        primary_key=(),
    )


def newest(values: Sequence[Any]) -> Any:
    """The greatest of some cursors; timestamps are compared as times, not as text."""
    return max(values, key=_in_time)


def _in_time(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return (0, value)
    return (0, value) if moment.utcoffset() is None else (1, moment)


def _session() -> requests.Session:
    session = requests.Session()
    session.mount("https://", _BoundedAdapter())
    session.mount("http://", _BoundedAdapter())
    return session


class _ExactResponse(requests.Response):
    """An answer whose numbers keep all of their digits."""

    def json(self, **_: Any) -> Any:
        """The body; raises `Refused` for unusable JSON, JSONDecodeError for anything else."""
        header = Message()
        header["Content-Type"] = self.headers.get("Content-Type", "")
        charset = header.get_content_charset()
        try:
            return json_values.read_bytes(self.content, charset)
        except simplejson.JSONDecodeError as error:
            raise requests.JSONDecodeError(error.msg, error.doc, error.pos) from None
        except ValueError as error:
            raise Refused(f"{_called(self.url)}: {error}") from None


class _BoundedAdapter(HTTPAdapter):
    """Limits each answer as a whole: the timeouts of requests are for single reads."""

    def send(self, request: requests.PreparedRequest, *_: Any, **more: Any) -> requests.Response:
        """The answer, its body read; raises `NonRetriable` for one that is too large,
        requests.Timeout for one that takes too long."""
        response = super().send(request, **{**more, "stream": True})
        until, pieces, size = time.monotonic() + _PAGE_SECONDS, [], 0
        try:
            for piece in response.iter_content(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > _MOST_PAGE_BYTES:
                    large = f"answers with more than {_MOST_PAGE_BYTES >> 20} MiB"
                    url = _called(request.url)
                    raise NonRetriable(f"{url} {large}: ask for smaller pages (page_size)")
                if time.monotonic() > until:
                    raise requests.Timeout(f"a page takes longer than {_PAGE_SECONDS:g} s")
        except BaseException:
            response.close()
            raise
        # Where requests itself stores a body that it has read.
        response._content = b"".join(pieces)
        response.__class__ = _ExactResponse
        return response


def _paginator(table: Table) -> Any:
    match table.pages:
        case "offset":
            return paginators.OffsetPaginator(limit=table.page_size, total_path=None)
        case "page":
            return paginators.PageNumberPaginator(base_page=1, total_path=None)
        case "cursor":
            return paginators.JSONResponseCursorPaginator(
                cursor_path=table.next_path, cursor_param=table.next_path
            )
        case "link":
            return paginators.HeaderLinkPaginator()
        case _:
            return paginators.SinglePagePaginator()


def _check(response: requests.Response, *_: Any, **__: Any) -> None:
    """Raise what an answer's status means."""
    status, url = response.status_code, _called(response.url)
    if status == 304:
        raise _NotModified
    if status == 429:
        raise RetryAfter(f"{url} answers 429", _pause(response))
    if status >= 500 or status == 408:
        raise ConnectionError(f"{url} answers {status}")
    if status >= 400:
        raise NonRetriable(f"{url} answers {status}: {response.text[:200]}")


def _pause(response: requests.Response) -> float:
    wait = response.headers.get("Retry-After") or ""
    if wait.isdecimal():
        return float(wait)
    reset = response.headers.get("X-RateLimit-Reset") or ""
    return max(0.0, float(reset) - time.time()) if reset.isdecimal() else 30.0


def _called(url: str | None) -> str:
    """A URL as error messages show it: its parameters may be secret."""
    return (url or "").partition("?")[0]
