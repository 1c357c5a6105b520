"""Why an invocation does not run at this moment, in words: `2 of 2 running for tenant 7`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runyard.functions.flow_control import NO_KEY
from runyard.store.queries import Row

# From so many lost workers on an invocation is suspect, as `claim` has it.
SUSPECT = 2


@dataclass(frozen=True)
class Reason:
    """What holds it; `until` is when that ends, where this is known."""

    text: str
    until: datetime | None = None


def reasons(row: Row, waits: Sequence[Mapping[str, Any]], slots: int, busy: int) -> list[Reason]:
    """What holds an invocation.

    Parameters
    ----------
    row
        As the statement `holding` gives it.
    waits
        What it waits for at its steps, as a `WaitView` has it.
    slots, busy
        Runs that the living workers can do at a time, and batches that are under way or wait for one.
    """
    match row["status"]:
        case "queued":
            return [*_queued(row)] or [*_workers(slots, busy, _next(row))]
        case "claimed" | "running" if row["cancel_requested_at"] is not None:
            return [
                Reason(
                    "is being cancelled: its worker hears of it within seconds, and it leaves its run at the next step"
                )
            ]
        case "claimed":
            return [*_workers(slots, busy, "its run is on the way to a worker")]
        case "sleeping" | "waiting":
            return [*_paused(row), *(_wait(wait) for wait in waits if wait["until"] > row["now"])]
        case _:
            return []


def _next(row: Row) -> str:
    if row["crashes"] < SUSPECT:
        return "waiting: it goes with the next batch"
    lost = f"{row['crashes']} workers were lost while it ran"
    return f"waiting: {lost}: it runs apart from the others, one run at a time"


def _queued(row: Row) -> Iterator[Reason]:
    if not row["active"]:
        yield Reason(
            "waiting: the code no longer has this function: it waits until it is there again"
        )
        return
    yield from _paused(row)
    if row["unlaunched"] is not None:
        yield Reason(
            f"waiting: {row['unlaunched']}",
            row["held_until"] if row["held_until"] > row["now"] else None,
        )
    if row["due_at"] > row["now"]:
        yield Reason(_not_yet(row), row["due_at"])
    elif row["keys"] is not None:
        yield from _limits(row)


def _paused(row: Row) -> Iterator[Reason]:
    if row["paused_at"] is not None:
        yield Reason("waiting: its function is paused; resume it, and it goes on")


def _not_yet(row: Row) -> str:
    if row["attempt"]:
        return f"attempt {row['attempt'] + 1} of the step that failed is still to come"
    if row["begun"]:
        return "it goes on later"
    if "batch" in row["flow"]:
        return f"waiting: events are gathered: it goes when {row['max_batch']} of its key are there, or in its time"
    if "debounce" in row["flow"] and row["admitted"]:
        return "debounced: it goes when no other event of its key has come for a while"
    return "it is scheduled"


def _limits(row: Row) -> Iterator[Reason]:
    held = {(slot["scope"], slot["key"]): int(slot["n"]) for slot in row["held"]}
    for limit in row["flow"]["concurrency"]:
        value = _key(row, limit["key"])
        if value == NO_KEY and limit["scope"].endswith(" singleton"):
            continue
        running = held.get((limit["scope"], value or ""), 0)
        if running >= limit["limit"]:
            single = " (a singleton)" if limit["scope"].endswith(" singleton") else ""
            yield Reason(
                f"waiting: {running} of {limit['limit']} running{_for(row, limit['key'])}{shared_with(limit['scope'])}{single}"
            )
    throttle = row["flow"].get("throttle")
    if throttle and not row["begun"] and row["throttled_until"] is not None:
        next_place = row["throttled_until"] - timedelta(
            seconds=(throttle["burst"] - 1) * throttle["interval"]
        )
        if next_place > row["now"]:
            yield Reason(
                f"waiting: throttled, one begins every {throttle['interval']:g} s{_for(row, throttle['key'])}",
                next_place,
            )


def _key(row: Row, place: int | None) -> str | None:
    return None if place is None else row["keys"][place - 1]


def _for(row: Row, place: int | None) -> str:
    """` for tenant 7`: the last part of the key's path and its value; nothing for a limit without a key."""
    if place is None:
        return ""
    name, value = row["key_paths"][place - 1][-1], _key(row, place)
    return f" for events without {name}" if value == NO_KEY else f" for {name} {value or ''}"


def shared_with(scope: str) -> str:
    """Over whom a limit of this scope holds, where it is not for its function alone."""
    return (
        f", over all functions that share {scope.removeprefix('shared ')!r}"
        if scope.startswith("shared ")
        else ""
    )


def _workers(slots: int, busy: int, else_: str) -> Iterator[Reason]:
    if not slots:
        yield Reason(
            "waiting: no warm worker is alive: start one with `runyard worker`, or all with `runyard up`"
        )
    elif busy >= slots:
        yield Reason(f"waiting: all {slots} slots of the workers are busy")
    else:
        yield Reason(else_)


def _wait(wait: Mapping[str, Any]) -> Reason:
    match wait["kind"]:
        case "sleep":
            return Reason(f"sleeps at {wait['step']}", wait["until"])
        case "event":
            return Reason(f"waits at {wait['step']} for the event {wait['event']}", wait["until"])
        case _:
            return Reason(f"waits at {wait['step']} for another function", wait["until"])
