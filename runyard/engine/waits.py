"""Steps that wait: for a time, for an event, for another function.

A wait is a row in the event table, created when the step is reached. The invocation's work in that
run ends there. Once the wait is over the invocation is due again: the step, reached in another run,
finds its wait over and saves the result. A wait is created only once for a step of an invocation:
after a crash or a retry the same one continues, and nothing that came meanwhile is missed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from runyard.engine import wait_registration
from runyard.engine.failures import described
from runyard.engine.items import Item
from runyard.engine.steps import Result, StepRecorder, encode
from runyard.errors import InvalidOption, InvokeFailed, NonRetriable
from runyard.events import Event, as_json, internal_row, new_ulid, rows_of
from runyard.functions import registry
from runyard.store.queries import Row
from runyard.syntax.durations import YEAR, Duration, seconds
from runyard.syntax.event_conditions import terms
from runyard.syntax.expressions import parse_expression
from runyard.syntax.jsonpath import check_filter, parse_path

# What an invocation waits for, as `runyard.wait_v1` takes it.
WaitRequest = dict[str, Any]
FINISHED = "runyard/function.finished"
_MATCH = "wait_for_event(match=...)"


def sleep(duration: Duration) -> WaitRequest:
    """Return a wait for a while to pass."""
    return {"kind": "sleep", "seconds": seconds(duration, "sleep")}


def sleep_until(when: datetime) -> WaitRequest:
    """Return a wait for a time; raises `InvalidOption` for one without a time zone."""
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidOption(
            "sleep_until: give a datetime with a time zone, "
            "as in datetime.now(UTC) + timedelta(days=3)"
        )
    return {"kind": "sleep", "until": when.timestamp()}


def event(
    name: str,
    own: Event,
    match: str | Sequence[str] | Mapping[str, object] | None,
    filter: str | None,
    timeout: Duration,
    condition: str | None = None,
) -> WaitRequest:
    """Return a wait for an event of this name whose fields match those of the invocation's `own`.

    When `match` gives paths and the own event has no value there (or null), no event matches, and
    the wait ends by its timeout. `condition` is an expression over both events.
    """
    if isinstance(match, Mapping):
        values, missing = dict(match), False
    else:
        paths = [] if match is None else [match] if isinstance(match, str) else match
        values = _own_values(own, paths)
        missing = None in values.values()
    request = {
        "kind": "event",
        "event": name,
        "seconds": seconds(timeout, "wait_for_event(timeout=...)"),
        "match_paths": [parse_path(path, _MATCH) for path in values],
        "match_values": list(values.values()),
        "unmatchable": missing,
        "filter": None if filter is None else check_filter(filter, "wait_for_event(filter=...)"),
    }
    return request if condition is None else _with_condition(request, own, condition)


def _with_condition(request: WaitRequest, own: Event, condition: str) -> WaitRequest:
    tree = parse_expression(condition, "wait_for_event(condition=...)")
    known = terms(tree, _document(own))
    if known is None:
        return {**request, "unmatchable": True}
    paths, values, rest = known
    return {
        **request,
        "match_paths": request["match_paths"] + paths,
        "match_values": request["match_values"] + values,
        "condition": rest,
    }


def _document(own: Event) -> dict[str, Any]:
    return {
        "id": own.id,
        "name": own.name,
        "data": own.data,
        "user": own.user,
        "v": own.v,
        "ts": own.ts,
    }


def _own_values(own: Event, paths: Sequence[str]) -> dict[str, object]:
    document = _document(own)
    return {path: _at(document, parse_path(path, _MATCH)) for path in paths}


def _at(document: Any, parts: Sequence[str]) -> object:
    for part in parts:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def register(
    recorder: StepRecorder,
    todo: Mapping[int, Item],
    request: Callable[[Item], WaitRequest],
    children: Callable[[set[int]], str | None] | None = None,
) -> Iterator[tuple[Item, str]]:
    """Register what invocations wait for, and record the results of waits that are over.

    Yields each invocation that still waits, with the kind of its wait. `children` makes the events
    that are sent along with new waits, from the ids of their invocations.
    """
    requests: list[WaitRequest] = []
    attempts: dict[int, Result] = {}
    for item in todo.values():
        result = recorder.attempt(request, item, "what the step waits for")
        if result.error is not None:
            recorder.record([result])
        else:
            attempts[item.id] = result
            requests.append({"invocation": item.id, **cast(WaitRequest, result.output)})
    if not requests:
        return
    kinds = {row["invocation"]: row["kind"] for row in requests}
    rows, refused = wait_registration.register_storable_waits(
        recorder.batch_id, recorder.run_id, recorder.step, requests, children
    )
    for invocation, reason in refused.items():
        error = NonRetriable(f"the database rejects what the step waits for: {reason}")
        recorder.record([_failed(todo[invocation], error)])
    for row in rows:
        item = todo[row["invocation_id"]]
        if row["done"]:
            result = _result(item, kinds[item.id], row)
            result.span = attempts[item.id].span
            recorder.record([result])
        else:
            recorder.record_span(attempts[item.id])
            yield item, kinds[item.id]


def _failed(item: Item, error: Exception) -> Result:
    at = time.time()
    return Result(item, at, at, error=error)


def _succeeded(item: Item, output: object) -> Result:
    at = time.time()
    return Result(item, at, at, *encode(output))


def _result(item: Item, kind: str, row: Row) -> Result:
    """Return the result of a wait that is over."""
    if kind == "sleep" or (kind == "event" and row["expired"]):
        return _succeeded(item, None)
    if kind == "event":
        return _succeeded(item, row["result"]["data"])
    if row["expired"]:
        message = (
            "the invoked function has not ended within the timeout; look at its invocation, or "
            "raise invoke(timeout=...)"
        )
        return _failed(item, InvokeFailed(message))
    child = row["result"]["data"]
    if child["status"] == "succeeded":
        return _succeeded(item, child["output"])
    message = f"{child['function']} {child['status']}: {described(child['error'] or {})}"
    return _failed(item, InvokeFailed(message, child))


def invoke(
    function: str, data: Callable[[Item], Mapping[str, Any]] | None, timeout: Duration = YEAR
) -> tuple[Callable[[Item], WaitRequest], Callable[[set[int]], str | None]]:
    """Return a wait for another function to end, and the events which start it.

    The events are for that function alone, whatever its triggers.
    """
    events: dict[int, dict[str, object]] = {}

    def request(item: Item) -> WaitRequest:
        event_data = dict(item.event.data) if data is None else data(item)
        wait, events[item.id] = invocation_of(function, event_data, item.id)
        return {**wait, "seconds": seconds(timeout, "invoke(timeout=...)")}

    def children(new: set[int]) -> str | None:
        return as_json([events[invocation] for invocation in sorted(new)]) if new else None

    return request, children


def invocation_of(
    function: str, data: Mapping[str, Any], caused_by: int
) -> tuple[WaitRequest, dict[str, object]]:
    """Return a wait, but for its time, for a function to end, and the event that starts it.

    Raises `InvalidOption` when there is no such function, and `InvalidEvent` for data that does not
    fit its event.
    """
    event = registry.invoking_event(function)
    if event is None:
        known = ", ".join(known.name for known in registry.functions())
        rest = f"; the code has {known}" if known else ""
        raise InvalidOption(f"invoke({function!r}): there is no such function{rest}")
    if event.startswith("runyard/"):
        row = internal_row(event, data)
    else:
        [row] = rows_of([Event(event, data)])
    ulid = new_ulid()
    wait = {
        "kind": "invoke",
        "event": FINISHED,
        "match_paths": [["data", "event_id"]],
        "match_values": [ulid],
    }
    return wait, {**row, "ulid": ulid, "target": function, "caused_by": caused_by}
