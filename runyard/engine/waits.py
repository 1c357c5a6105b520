"""Steps that wait: a time, an event, another function.

What an invocation waits for is a row in the event table, registered when the step is reached. Its part in the run ends there; the row brings it
back, and the step, reached again in another run, finds its wait over and keeps the result. A row is made once for a step's name: after a
crash or a retry the same wait goes on, and nothing that came meanwhile is missed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from runyard.engine import dispatch
from runyard.engine.failures import described
from runyard.engine.items import Item
from runyard.engine.steps import Result, StepRecorder, encode
from runyard.errors import InvalidOption, InvokeFailed, NonRetriable
from runyard.events import Event, as_json, internal_row, new_ulid, rows_of
from runyard.functions import registry
from runyard.store.queries import Row
from runyard.syntax.durations import YEAR, Duration, seconds
from runyard.syntax.jsonpath import check_filter, parse_path

Asked = dict[str, Any]
FINISHED = "runyard/function.finished"


def sleep(duration: Duration) -> Asked:
    """What to wait for: that a while passes."""
    return {"kind": "sleep", "seconds": seconds(duration, "sleep")}


def sleep_until(when: datetime) -> Asked:
    """What to wait for: a time."""
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidOption(
            "sleep_until: give a datetime with a time zone, as in datetime.now(UTC) + timedelta(days=3)"
        )
    return {"kind": "sleep", "until": when.timestamp()}


def event(
    name: str,
    own: Event,
    match: str | Sequence[str] | Mapping[str, object] | None,
    filter: str | None,
    timeout: Duration,
) -> Asked:
    """What to wait for: an event of this name whose fields match; `own` is the event of the invocation itself.

    Where the fields to be compared are its own, and it has no value there (null is none), nothing fits, and the wait ends by its timeout.
    """
    missing = False
    if not isinstance(match, Mapping):
        document = {
            "id": own.id,
            "name": own.name,
            "data": own.data,
            "user": own.user,
            "v": own.v,
            "ts": own.ts,
        }
        match = {
            one: _at(document, parse_path(one, "wait_for_event(match=...)"))
            for one in ([] if match is None else [match] if isinstance(match, str) else match)
        }
        missing = None in match.values()
    return {
        "kind": "event",
        "event": name,
        "seconds": seconds(timeout, "wait_for_event(timeout=...)"),
        "shape": [parse_path(one, "wait_for_event(match=...)") for one in match],
        "wanted": list(match.values()),
        "missing": missing,
        "filter": None if filter is None else check_filter(filter, "wait_for_event(filter=...)"),
    }


def _at(document: Any, parts: Sequence[str]) -> object:
    for part in parts:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def register(
    recorder: StepRecorder,
    todo: Mapping[int, Item],
    ask: Callable[[Item], Asked],
    children: Callable[[set[int]], str | None] | None = None,
) -> Iterator[tuple[Item, str]]:
    """Register what invocations wait for, and give the recorder the results of waits that are over.

    Yields each invocation whose wait goes on, with its kind. `children` makes the events that are
    sent with waits which are registered for the first time, by the ids of their invocations.
    """
    wanted: list[Asked] = []
    for item in todo.values():
        result = recorder.attempt(ask, item, "what the step waits for")
        if result.error is not None:
            recorder.record([result])
        else:
            wanted.append({"invocation": item.id, **cast(Asked, result.output)})
    if not wanted:
        return
    kinds = {asked["invocation"]: asked["kind"] for asked in wanted}
    rows, refused = dispatch.register_fitting_waits(
        recorder.batch_id, recorder.run_id, recorder.step, wanted, children
    )
    for invocation, why in refused.items():
        recorder.record(
            [
                _failed(
                    todo[invocation],
                    NonRetriable(f"the database refuses what the step waits for: {why}"),
                )
            ]
        )
    for row in rows:
        item = todo[row["invocation_id"]]
        if row["done"]:
            recorder.record([_result(item, kinds[item.id], row)])
        else:
            yield item, kinds[item.id]


def _failed(item: Item, error: Exception) -> Result:
    at = time.time()
    return Result(item, at, at, error=error)


def _result(item: Item, kind: str, row: Row) -> Result:
    started = finished = time.time()
    if kind == "sleep" or (kind == "event" and row["expired"]):
        return Result(item, started, finished, *encode(None))
    if kind == "event":
        return Result(item, started, finished, *encode(row["result"]["data"]))
    if row["expired"]:
        return _failed(
            item,
            InvokeFailed(
                "the invoked function has not ended in time; look at its invocation, and give invoke(timeout=...) more"
            ),
        )
    child = row["result"]["data"]
    if child["status"] == "succeeded":
        return Result(item, started, finished, *encode(child["output"]))
    return _failed(
        item,
        InvokeFailed(
            f"{child['function']} {child['status']}: {described(child['error'] or {})}", child
        ),
    )


def invoke(
    function: str, data: Callable[[Item], Mapping[str, Any]] | None, timeout: Duration = YEAR
) -> tuple[Callable[[Item], Asked], Callable[[set[int]], str | None]]:
    """What to wait for, that another function ends; and the events, for it alone, that start it."""
    made: dict[int, dict[str, object]] = {}

    def ask(item: Item) -> Asked:
        called = registry.find(function)
        if called is None:
            raise InvalidOption(
                f"invoke({function!r}): the code has no such function; it has {', '.join(one.name for one in registry.functions())}"
            )
        given = dict(item.event.data) if data is None else data(item)
        row = (
            internal_row(called.event, given)
            if called.event.startswith("runyard/")
            else rows_of([Event(called.event, given)])[0]
        )
        made[item.id] = {**row, "ulid": new_ulid(), "target": function, "caused_by": item.id}
        return {
            "kind": "invoke",
            "event": FINISHED,
            "seconds": seconds(timeout, "invoke(timeout=...)"),
            "shape": [["data", "event_id"]],
            "wanted": [made[item.id]["ulid"]],
        }

    def children(fresh: set[int]) -> str | None:
        return as_json([made[invocation] for invocation in sorted(fresh)]) if fresh else None

    return ask, children
