"""All events, newest first; and one event, with its invocations and what they caused."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from runyard.dagster_adapter.links import to_event, to_invocation
from runyard.errors import InvalidOption
from runyard.events import catalog
from runyard.gateway.api.actions import replay_all_of
from runyard.gateway.api.history import event_of
from runyard.gateway.dev.forms import example
from runyard.gateway.dev.page import Action, Page, Values, Visit
from runyard.gateway.dev.search import FIELDS, STATUSES, Search, SearchResult, find
from runyard.gateway.dev.trace_link import trace_url
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

_EACH = 6
_MAX_CAUSED = 200


def list_events(visit: Visit) -> Values:
    """A page of events."""
    search = Search(
        {field: visit.query_value(field) for field in FIELDS}, visit.query_value("before")
    )
    problem = None
    try:
        result = find(search)
    except InvalidOption as error:
        result, problem = SearchResult([], None), str(error)
    return {
        "search": search,
        "problem": problem,
        "result": result,
        "events": _with_invocations(result.events),
        "statuses": STATUSES,
        "names": event_names,
        "first_command": _first_command,
    }


def show_event(visit: Visit) -> Values:
    """One event."""
    event = event_of(visit.path("id"), visit.caller)
    with database.connection() as connection:
        invocations = fetch_all(connection, "invocation_summaries", events=[event.id], each=100)
        caused = fetch_all(connection, "caused_events", event=event.id, limit=_MAX_CAUSED)
        cause = fetch_one(connection, "causing_invocation", invocation=event.caused_by)
    # An event that is its own cause is not repeated below itself.
    rows = {
        row["id"]: row
        for row in _with_invocations([row for row in caused if row["id"] != event.id])
    }
    return {
        "event": event,
        "trace_url": trace_url(event.id, event.trace),
        "invocations": invocations,
        "cause": cause,
        "branches": _branches(rows.values()),
        "many": len(caused) == _MAX_CAUSED,
    }


def replay(visit: Visit) -> str:
    """Replay an event's invocations; redirect to the new one, or to the event if several."""
    event_id, keep = visit.path("id"), visit.form_value("keep") == "yes"
    invocations = replay_all_of(event_id, None, visit.caller, keep=keep)
    return to_invocation(invocations[0]) if len(invocations) == 1 else to_event(event_id)


def event_names() -> list[str]:
    """The event names in the catalog, and in the triggers of functions."""
    with database.connection() as connection:
        triggers = [
            name for row in fetch_all(connection, "functions_started") for name in row["exact"]
        ]
    return sorted({*catalog.names(), *triggers})


def _first_command() -> str:
    """A command that sends an event of the project: one with a type, or one that starts something.

    Its data are an example.
    """
    name = next(iter([*catalog.names(), *event_names()]), "order/placed")
    data = json.dumps(example(catalog.schema(name) or {}), ensure_ascii=False)
    return f"runyard send {shlex.quote(name)} --data {shlex.quote(data)}"


def _with_invocations(events: Sequence[Row]) -> list[dict[str, Any]]:
    """Events, each with its first invocations and their total number."""
    ids = [event["id"] for event in events]
    invocations: dict[str, list[Row]] = {}
    if ids:
        with database.connection() as connection:
            for row in fetch_all(connection, "invocation_summaries", events=ids, each=_EACH):
                invocations.setdefault(row["event_id"], []).append(row)
    return [{**event, "invocations": invocations.get(event["id"], [])} for event in events]


def _branches(events: Any) -> Mapping[int, list[Row]]:
    """Events by the invocation that sent them."""
    branches: dict[int, list[Row]] = {}
    for event in events:
        branches.setdefault(event["caused_by"], []).append(event)
    return branches


PAGES = [
    Page("", "events", list_events, menu="Events", refresh_seconds=1.0),
    Page("/events/{id}", "event", show_event, refresh_seconds=0.5),
]
ACTIONS = [Action("/events/{id}/replay", replay)]
