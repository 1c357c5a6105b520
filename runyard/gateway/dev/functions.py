"""Every function, those that fail first; and one with its latest invocations."""

from collections.abc import Mapping, Sequence
from typing import Any

from runyard.dagster_adapter.links import to_function
from runyard.engine import bulk, dispatch
from runyard.engine.bulk import Selection
from runyard.engine.failures import described
from runyard.gateway.api.actions import QUERY_SECONDS
from runyard.gateway.dev.blockers import shared_with
from runyard.gateway.dev.page import Action, Page, Values, Visit
from runyard.gateway.http.endpoint import not_found
from runyard.store import database
from runyard.store.queries import Row, fetch_all

# Of the last hour so many invocations of a function are looked at: with more there are "at least" so many.
_MOST = 10_000
_LATEST = 50


def list_functions(visit: Visit) -> Values:
    """The registry."""
    del visit
    functions = _functions()
    return {
        "functions": sorted(
            functions,
            key=lambda one: (
                not one["failed"],
                not one["lately"]["failed"],
                not one["active"],
                one["name"],
            ),
        ),
        "most": _MOST,
    }


def show_function(visit: Visit) -> Values:
    """One function."""
    name = visit.path("name")
    found = next((function for function in _functions() if function["name"] == name), None)
    if found is None:
        raise not_found("function", name)
    dead = visit.query_value("only") == "dead-letters"
    latest = _dead_letters(name) if dead else _latest(name)
    under_way = [
        row
        for row in bulk.bulks()
        if row["finished_at"] is None and row["selection"].get("function") == name
    ]
    return {
        "function": found,
        "latest": latest,
        "dead": dead,
        "shown": _LATEST,
        "bulks": under_way,
        "most": _MOST,
    }


def open_lately(function: str) -> list[Row]:
    """The newest invocations of a function that are not final, with their event's data and what they last said of their progress."""
    with database.connection() as connection:
        return fetch_all(connection, "open_lately", function=function)


def pause(visit: Visit) -> str:
    """Hold its invocations back."""
    return _set_paused(visit, True)


def resume(visit: Visit) -> str:
    """Let them go."""
    return _set_paused(visit, False)


def replay_failures(visit: Visit) -> str:
    """Replay the failures that nobody has dealt with; what the first chunk leaves goes on behind the answer."""
    name = visit.path("name")
    pieces = bulk.perform(
        Selection(function=name, status=("failed",)),
        "replay",
        keep=visit.form_value("keep") == "yes",
        most_seconds=QUERY_SECONDS,
    )
    next(pieces)
    visit.in_background(pieces)
    return to_function(name)


def _set_paused(visit: Visit, paused: bool) -> str:
    name = visit.path("name")
    if not dispatch.pause(name, paused):
        raise not_found("function", name)
    return to_function(name) if visit.form_value("from") == "function" else "/dev/functions"


def _functions() -> list[dict[str, Any]]:
    with database.connection() as connection:
        rows = fetch_all(connection, "functions")
        lately = {row["name"]: row for row in fetch_all(connection, "functions_lately", most=_MOST)}
    return [{**row, "lately": lately[row["name"]], "flow_words": flow_words(row)} for row in rows]


def _latest(name: str) -> list[Row]:
    with database.connection() as connection:
        return fetch_all(connection, "latest_of_function", function=name, limit=_LATEST)


def _dead_letters(name: str) -> list[Row]:
    """The failures of a function that nobody has dealt with, as `_latest` gives invocations."""
    with database.connection() as connection:
        rows = fetch_all(connection, "dead_letters", function=name, invocation=None, limit=_LATEST)
    return [
        {
            **row,
            "status": "failed",
            "error": described(row),
            "seconds": (row["finished_at"] - row["created_at"]).total_seconds(),
        }
        for row in rows
    ]


def flow_words(row: Row) -> list[str]:
    """A function's flow control in words, of its row in the table."""
    flow: Mapping[str, Any] = row["flow"]
    words = [
        f"{limit['limit']} at a time{_by(row, limit['key'])}{shared_with(limit['scope'])}"
        for limit in flow.get("concurrency", ())
        if not limit["scope"].endswith(" singleton")
    ]
    for limit in flow.get("limits", ()):
        words.append(
            f"{'once' if limit['gate'] == 'idempotency' else limit['limit']} in {_length(limit['period'])}{_by(row, limit['key'])}"
        )
    if throttle := flow.get("throttle"):
        words.append(
            f"throttled to one every {_length(throttle['interval'])}, {throttle['burst']} at once{_by(row, throttle['key'])}"
        )
    if debounce := flow.get("debounce"):
        words.append(f"debounced by {_length(debounce['period'])}{_by(row, debounce['key'])}")
    if batch := flow.get("batch"):
        words.append(f"gathered: {row['max_batch']}, or what came within {_length(batch['wait'])}")
    if single := flow.get("singleton"):
        words.append(
            f"a singleton{_by(row, single['key'])}: a later event {'takes its place' if single['mode'] == 'cancel' else 'is skipped'}"
        )
    if row["priority"] or flow.get("priority"):
        words.append(f"priority {row['priority'] or 'by ' + flow['priority']['path']}")
    words += [
        f"{text} {_length(flow[key])}"
        for key, text in (("start_within", "begins within"), ("finish_within", "ends within"))
        if key in flow
    ]
    return [*words, *(f"cancelled by {rule['event']}" for rule in flow.get("cancel_on", ()))]


def _by(row: Row, place: int | None) -> str:
    paths: Sequence[Sequence[str]] = row["key_paths"]
    return "" if place is None else f" for each {'.'.join(paths[place - 1])}"


def _length(seconds: float) -> str:
    """A length of time: `90 s`, `5 min`, `2 h`, `7 d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


PAGES = [
    Page("/functions", "functions", list_functions, menu="Functions", refresh_seconds=1.0),
    Page("/functions/{name}", "function", show_function, refresh_seconds=1.0),
]
ACTIONS = [
    Action("/functions/{name}/pause", pause),
    Action("/functions/{name}/resume", resume),
    Action("/functions/{name}/replay-failures", replay_failures),
]
