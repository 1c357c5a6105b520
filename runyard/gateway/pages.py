"""`/dev`: the latest events with their invocations and steps, and links to their runs in the Dagster UI."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse

from runyard.errors import DatabaseUnavailable
from runyard.redaction import redact
from runyard.store import database
from runyard.store.queries import Row, run

_SHOWN = 50
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def templates(pretty: Callable[[object], str]) -> Environment:
    """The templates of `pages/`; `pretty` is how they show JSON."""
    made = Environment(loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["pretty"] = pretty
    return made


def as_pretty_json(value: object) -> str:
    """JSON with indents."""
    return json.dumps(value, indent=2, ensure_ascii=False)


_environment = templates(lambda value: redact(as_pretty_json(value)))


async def dev_page(request: Request) -> HTMLResponse:
    """The latest events, or those with the `name` or `id` of the query."""
    name = request.query_params.get("name") or None
    event_id = request.query_params.get("id") or None
    try:
        events, functions = await run_in_threadpool(_look, name, event_id)
    except DatabaseUnavailable as error:
        return _render("away.html", 503, message=str(error))
    return _render("dev.html", events=events, functions=functions, name=name or "", event_id=event_id or "", shown=_SHOWN)


def _look(name: str | None, event_id: str | None) -> tuple[list[Row], list[Row]]:
    with database.connection() as connection:
        return run(connection, "recent_events", limit=_SHOWN, name=name, id=event_id), run(connection, "functions")


def _render(page: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(_environment.get_template(page).render(**values), status_code=status, headers=_HEADERS)
