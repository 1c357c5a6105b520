"""Send an event by a form for its type, or as JSON, with errors per field, and as code."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from runyard.dagster_adapter.links import to_event
from runyard.errors import InvalidEvent, InvalidOption
from runyard.events import Event, catalog, millis, rows_as_json
from runyard.gateway.api.history import event_of
from runyard.gateway.dev.events import event_names
from runyard.gateway.dev.forms import (
    Field,
    data_of,
    example,
    field_texts,
    fields_of,
    problems_by_field,
)
from runyard.gateway.dev.page import Action, Page, PageResponse, Values, Visit
from runyard.gateway.dev.snippets import snippets
from runyard.gateway.http.body import check_values
from runyard.gateway.http.errors import HttpError
from runyard.store import database
from runyard.store.queries import fetch_all
from runyard.syntax.times import parse_time
from runyard.text.error_text import why_not_json

Problems = Sequence[tuple[str, str]]
_OPTIONS = ("id", "at")
_LOCK_SECONDS = 1


def show(visit: Visit) -> Values:
    """The form for an event, filled with its example, or with the data of an earlier `event`."""
    name, data = visit.query_value("name"), None
    if visit.query_value("event"):
        sent = event_of(visit.query_value("event"), visit.caller)
        name, data = sent.name, sent.data
    schema = catalog.schema(name) if name else None
    raw = visit.query_value("mode") == "json" or schema is None
    if data is None:
        data = example(schema) if schema is not None else {}
    fields = fields_of(schema or {})
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return {
        **_form_values(name, fields, raw, field_texts(fields, data), text, {}),
        **_results(visit, fields, raw, *_event(name, data, {})),
    }


def send(visit: Visit) -> str | PageResponse:
    """Send the event and redirect to it, or (with `do=check`) only report what is wrong with it."""
    name = visit.form_value("name").strip()
    schema = catalog.schema(name) if name else None
    raw = visit.form_value("mode") == "json" or schema is None
    fields = fields_of(schema or {})
    texts = {field: values[0] for field, values in visit.form.items() if field.startswith("data.")}
    options = {field: visit.form_value(field).strip() for field in _OPTIONS}
    data, unreadable = _read_json(visit.form_value("json")) if raw else data_of(fields, texts)
    event, problems = _event(name, data, options)
    problems = _merge(unreadable, problems)
    if visit.form_value("do") == "send" and event is not None and not problems:
        [event_id] = send_events([event], visit.caller.sender)
        return to_event(event_id)
    values = {
        **_form_values(name, fields, raw, texts, visit.form_value("json"), options),
        **_results(visit, fields, raw, event, problems),
    }
    return PageResponse("send", values, 400 if visit.form_value("do") == "send" else 200)


def send_events(events: Sequence[Event], sender: str) -> list[str]:
    """Send events, all or none; return their ids.

    Raises psycopg's LockNotAvailable if another transaction is sending the same id.
    """
    with database.transaction(_LOCK_SECONDS) as connection:
        sent = fetch_all(
            connection, "send", events=rows_as_json(events, sender=sender), source="dev page"
        )
    return [str(row["id"]) for row in sent]


def _form_values(
    name: str,
    fields: Sequence[Field],
    raw: bool,
    texts: Mapping[str, str],
    text: str,
    options: Mapping[str, str],
) -> dict[str, Any]:
    """The template values of the form itself."""
    return {
        "name": name,
        "names": event_names(),
        "fields": fields,
        "raw": raw,
        "texts": texts,
        "json": text,
        "options": {field: options.get(field, "") for field in _OPTIONS},
    }


def _results(
    visit: Visit, fields: Sequence[Field], raw: bool, event: Event | None, problems: Problems
) -> dict[str, Any]:
    """The template values for the event's problems, or for its code if it has none."""
    by_field, others = _problems_of_json(problems) if raw else problems_by_field(fields, problems)
    for field in _OPTIONS:
        by_field[field] = [text for path, text in others if path == field]
    code: Mapping[str, str] = {}
    if event is not None and not problems:
        needs_key = not visit.request.app.state.services.authenticator.development
        code = snippets(event, str(visit.request.base_url).rstrip("/"), key=needs_key)
    return {
        "problems": problems,
        "by_field": by_field,
        "others": [(path, text) for path, text in others if path not in _OPTIONS],
        "snippets": code,
    }


def _problems_of_json(problems: Problems) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """As `forms.problems_by_field`, for the one field with all of the data."""
    of_data = [(path, text) for path, text in problems if path.partition(".")[0] == "data"]
    others = [problem for problem in problems if problem not in of_data]
    return {"json": [f"{path}: {text}" for path, text in of_data]}, others


def _merge(unreadable: Problems, problems: Problems) -> Problems:
    """All problems; of a field that does not parse the type would only say that it is missing."""
    unread = {path for path, _ in unreadable}
    if "data" in unread:
        return unreadable
    return [*unreadable, *((path, text) for path, text in problems if path not in unread)]


def _event(
    name: str, data: Mapping[str, Any], options: Mapping[str, str]
) -> tuple[Event | None, Problems]:
    if not name:
        return None, []
    try:
        ts = millis(parse_time(options["at"], "at")) if options.get("at") else None
        return Event(name, data, id=options.get("id") or None, ts=ts).checked(), []
    except InvalidOption as error:
        return None, [("at", str(error))]
    except InvalidEvent as error:
        return None, error.problems


def _read_json(text: str) -> tuple[Any, Problems]:
    try:
        check_values(text.encode())
        data = json.loads(text or "{}")
    except (ValueError, RecursionError, HttpError) as error:
        return {}, [("data", f"this is not JSON: {why_not_json(error)}")]
    if not isinstance(data, dict):
        return {}, [("data", "this is not a JSON object: start it with {")]
    return data, []


PAGES = [Page("/send", "send", show, menu="Send")]
ACTIONS = [Action("/send", send, scope="send")]
