"""Why an invocation is not running right now, in words: `2 of 2 running for tenant 7`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runyard.functions.flow_control import NO_KEY
from runyard.store.queries import Row
from runyard.syntax.event_keys import is_expression, text_of

# An invocation that has lost this many workers runs in isolation, as `claim` has it.
SUSPECT = 2


@dataclass(frozen=True)
class Reason:
    """What blocks an invocation, and until when, if that is known."""

    text: str
    until: datetime | None = None


def reasons(row: Row, waits: Sequence[Mapping[str, Any]], slots: int, busy: int) -> list[Reason]:
    """What blocks an invocation.

    Parameters
    ----------
    row
        A row of the statement `holding`.
    waits
        What it waits for at its steps, as dumps of `WaitView`.
    slots, busy
        How many runs the live workers can execute at a time, and how many batches are running or
        waiting for a worker.
    """
    match row["status"]:
        case "queued":
            return [*_queued(row)] or [*_workers(slots, busy, _next(row))]
        case "claimed" | "running" if row["cancel_requested_at"] is not None:
            return [
                Reason(
                    "is being cancelled: its worker is told within seconds, and it ends at its"
                    " next step"
                )
            ]
        case "claimed":
            return [*_workers(slots, busy, "its run is on its way to a worker")]
        case "sleeping" | "waiting":
            return [*_paused(row), *(_wait(wait) for wait in waits if wait["until"] > row["now"])]
        case _:
            return []


def _next(row: Row) -> str:
    if row["crashes"] < SUSPECT:
        return "waiting: it runs with the next batch"
    return (
        f"waiting: {row['crashes']} workers died while running it, so it runs on its own,"
        " one such run at a time"
    )


def _queued(row: Row) -> Iterator[Reason]:
    if not row["active"]:
        yield Reason("waiting: the code no longer has this function; it runs once it is back")
        return
    yield from _paused(row)
    if row["unlaunched"] is not None:
        until = row["held_until"] if row["held_until"] > row["now"] else None
        yield Reason(f"waiting: {row['unlaunched']}", until)
    if row["due_at"] > row["now"]:
        yield Reason(_not_due(row), row["due_at"])
    elif row["keys"] is not None:
        yield from _concurrency(row)
        yield from _throttle(row)


def _paused(row: Row) -> Iterator[Reason]:
    if row["paused_at"] is not None:
        yield Reason("waiting: its function is paused; resume the function to run it")


def _not_due(row: Row) -> str:
    if row["attempt"]:
        return f"waiting: attempt {row['attempt'] + 1} of the failed step"
    if row["begun"]:
        return "waiting to resume"
    if "batch" in row["flow"]:
        return (
            f"waiting: a batch is being collected; it runs with {row['max_batch']} events of its"
            " key, or at the latest"
        )
    if "debounce" in row["flow"] and row["admitted"]:
        return "debounced: it runs when no other event of its key has arrived for a while"
    return "it is scheduled"


def _concurrency(row: Row) -> Iterator[Reason]:
    used = {(slot["scope"], slot["key"]): int(slot["n"]) for slot in row["held"]}
    for limit in row["flow"]["concurrency"]:
        key = _key(row, limit["key"])
        singleton = limit["scope"].endswith(" singleton")
        if singleton and key == NO_KEY:
            continue
        running = used.get((limit["scope"], key or ""), 0)
        if running >= limit["limit"]:
            where = _for(row, limit["key"]) + shared_with(limit["scope"])
            what = " (a singleton)" if singleton else ""
            yield Reason(f"waiting: {running} of {limit['limit']} running{where}{what}")


def _throttle(row: Row) -> Iterator[Reason]:
    throttle = row["flow"].get("throttle")
    if not throttle or row["begun"] or row["throttled_until"] is None:
        return
    burst = timedelta(seconds=(throttle["burst"] - 1) * throttle["interval"])
    next_start = row["throttled_until"] - burst
    if next_start > row["now"]:
        rate = f"one every {throttle['interval']:g} s{_for(row, throttle['key'])}"
        yield Reason(f"waiting: throttled to {rate}", next_start)


def _key(row: Row, position: int | None) -> str | None:
    return None if position is None else row["keys"][position - 1]


def _for(row: Row, position: int | None) -> str:
    """` for tenant 7`, with the last part of the key's path; empty for a limit without a key."""
    if position is None:
        return ""
    written, key = row["key_paths"][position - 1], _key(row, position)
    name = text_of(written) if is_expression(written) else text_of(written).split(".")[-1]
    return f" for events without {name}" if key == NO_KEY else f" for {name} {key or ''}"


def shared_with(scope: str) -> str:
    """Which other functions a limit of this scope covers; empty for its function alone."""
    if not scope.startswith("shared "):
        return ""
    return f", across all functions that share {scope.removeprefix('shared ')!r}"


def _workers(slots: int, busy: int, otherwise: str) -> Iterator[Reason]:
    if not slots:
        yield Reason(
            "waiting: no warm worker is alive: start one with `runyard worker`, or everything with"
            " `runyard up`"
        )
    elif busy >= slots:
        yield Reason(f"waiting: all {slots} worker slots are busy")
    else:
        yield Reason(otherwise)


def _wait(wait: Mapping[str, Any]) -> Reason:
    at = f"waiting at {wait['step']}"
    match wait["kind"]:
        case "sleep":
            return Reason(f"sleeping at {wait['step']}", wait["until"])
        case "event":
            return Reason(f"{at} for the event {wait['event']} or the timeout", wait["until"])
        case "signal":
            signal = wait["signal"] or "that another wait has taken over"
            return Reason(f"{at} for the signal {signal} or the timeout", wait["until"])
        case _:
            return Reason(f"{at} for another function or the timeout", wait["until"])
