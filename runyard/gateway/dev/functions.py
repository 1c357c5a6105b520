"""All functions, failing ones first; and one function with its latest invocations."""

from collections.abc import Mapping
from typing import Any

from runyard.dagster_adapter.links import to_function
from runyard.engine import bulk
from runyard.engine.bulk import Selection
from runyard.engine.control import set_paused
from runyard.engine.failures import described
from runyard.gateway.api.actions import QUERY_SECONDS
from runyard.gateway.dev.blockers import shared_with
from runyard.gateway.dev.charts import SPANS, histories, history
from runyard.gateway.dev.page import Action, Page, Values, Visit
from runyard.gateway.http.endpoint import not_found
from runyard.store import database
from runyard.store.queries import Row, fetch_all
from runyard.syntax.event_keys import text_of

# How many invocations of a function in the last hour are counted; more are shown as "10,000+".
_MAX_COUNTED = 10_000
_LATEST = 50


def list_functions(visit: Visit) -> Values:
    """All functions."""
    del visit
    functions = sorted(_functions(), key=_failing_first)
    past = histories([function["name"] for function in functions], "1h")
    return {
        "functions": functions,
        "max_counted": _MAX_COUNTED,
        "sparklines": {name: history.sparkline() for name, history in past.items()},
    }


def _failing_first(function: Mapping[str, Any]) -> tuple[bool, bool, bool, str]:
    failed_last_hour = bool(function["last_hour"]["failed"])
    return not function["failed"], not failed_last_hour, not function["active"], function["name"]


def show_function(visit: Visit) -> Values:
    """One function."""
    name = visit.path("name")
    function = next((row for row in _functions() if row["name"] == name), None)
    if function is None:
        raise not_found("function", name)
    dead = visit.query_value("only") == "dead-letters"
    latest = _dead_letters(name) if dead else _latest(name)
    under_way = [
        row
        for row in bulk.bulks()
        if row["finished_at"] is None and row["selection"].get("function") == name
    ]
    return {
        "function": function,
        "latest": latest,
        "dead": dead,
        "shown": _LATEST,
        "bulks": under_way,
        "max_counted": _MAX_COUNTED,
        "history": history(name, visit.query_value("span")),
        "spans": SPANS,
    }


def open_invocations(function: str) -> list[Row]:
    """A function's newest open invocations, with their event's data and latest progress."""
    with database.connection() as connection:
        return fetch_all(connection, "open_invocations", function=function)


def pause(visit: Visit) -> str:
    """Pause a function."""
    return _set_paused(visit, True)


def resume(visit: Visit) -> str:
    """Resume a function."""
    return _set_paused(visit, False)


def replay_failures(visit: Visit) -> str:
    """Replay a function's dead letters: the first chunk now, the others in the background."""
    name = visit.path("name")
    pieces = bulk.perform(
        Selection(function=name, status=("failed",)),
        "replay",
        keep_steps=visit.form_value("keep") == "yes",
        timeout=QUERY_SECONDS,
    )
    next(pieces)
    visit.in_background(pieces)
    return to_function(name)


def _set_paused(visit: Visit, paused: bool) -> str:
    name = visit.path("name")
    if not set_paused(name, paused):
        raise not_found("function", name)
    return to_function(name) if visit.form_value("from") == "function" else "/dev/functions"


def _functions() -> list[dict[str, Any]]:
    with database.connection() as connection:
        rows = fetch_all(connection, "functions")
        last_hour = {
            row["name"]: row for row in fetch_all(connection, "function_stats", most=_MAX_COUNTED)
        }
    return [
        {**row, "last_hour": last_hour[row["name"]], "flow_words": flow_words(row)} for row in rows
    ]


def _latest(name: str) -> list[Row]:
    with database.connection() as connection:
        return fetch_all(connection, "latest_of_function", function=name, limit=_LATEST)


def _dead_letters(name: str) -> list[Row]:
    """A function's dead letters, in the shape of `_latest`."""
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
    """A function's flow control in words, from its row in the table."""
    flow: Mapping[str, Any] = row["flow"]
    words = [
        f"{limit['limit']} at a time{_by(row, limit['key'])}{shared_with(limit['scope'])}"
        for limit in flow.get("concurrency", ())
        if not limit["scope"].endswith(" singleton")
    ]
    for limit in flow.get("limits", ()):
        times = "once" if limit["kind"] == "idempotency" else limit["limit"]
        words.append(f"{times} in {_duration(limit['period'])}{_by(row, limit['key'])}")
    if throttle := flow.get("throttle"):
        rate = f"one every {_duration(throttle['interval'])}, bursts of {throttle['burst']}"
        words.append(f"throttled to {rate}{_by(row, throttle['key'])}")
    if debounce := flow.get("debounce"):
        words.append(f"debounced by {_duration(debounce['period'])}{_by(row, debounce['key'])}")
    if batch := flow.get("batch"):
        words.append(
            f"batches of {row['max_batch']}, or what arrives within {_duration(batch['timeout'])}"
        )
    if singleton := flow.get("singleton"):
        effect = "replaces it" if singleton["mode"] == "cancel" else "is skipped"
        words.append(f"a singleton{_by(row, singleton['key'])}: a later event {effect}")
    if row["priority"] or flow.get("priority"):
        words.append(f"priority {row['priority'] or 'by ' + flow['priority']['path']}")
    if "start_timeout" in flow:
        words.append(f"must start within {_duration(flow['start_timeout'])}")
    if "finish_timeout" in flow:
        words.append(f"must finish within {_duration(flow['finish_timeout'])}")
    return [*words, *(f"cancelled by {rule['event']}" for rule in flow.get("cancel_on", ()))]


def _by(row: Row, position: int | None) -> str:
    return "" if position is None else f" for each {text_of(row['key_paths'][position - 1])}"


def _duration(seconds: float) -> str:
    """A duration: `90 s`, `5 min`, `2 h`, `7 d`."""
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
