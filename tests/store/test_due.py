"""One query says for every function what `seconds_until_due` says for one."""

import time
from collections.abc import Callable

import pytest

from runyard import Event, send
from runyard.engine import dispatch
from runyard.engine.dispatch import Outcome
from runyard.engine.due import due_functions
from runyard.functions.flow_control import (
    BatchEvents,
    Concurrency,
    Debounce,
    Flow,
    Idempotency,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
)
from runyard.functions.registry import Function
from tests.conftest import Publish
from tests.tables import rows

FLOWS = {
    "plain": Flow(),
    "by_priority": Flow(priority=Priority("data.level")),
    "one_at_a_time": Flow(concurrency=(Concurrency(1),)),
    "one_of_a_key": Flow(concurrency=(Concurrency(1, key="data.k"),)),
    "shared": Flow(concurrency=(Concurrency(1, scope="shared"),)),
    "throttled": Flow(throttle=Throttle(1, 60)),
    "throttled_by_key": Flow(throttle=Throttle(2, 60, key="data.k", burst=2)),
    "batched": Flow(batch=BatchEvents(3, 60)),
    "batched_by_key": Flow(batch=BatchEvents(3, 60, key="data.k")),
    "debounced": Flow(debounce=Debounce(60, key="data.k")),
    "rated": Flow(rate_limit=RateLimit(1, 60, key="data.k")),
    "once": Flow(idempotency=Idempotency("data.k")),
    "single": Flow(singleton=Singleton(key="data.k")),
    "replacing": Flow(singleton=Singleton("cancel", key="data.k")),
}


def made(name: str) -> Function:
    flow = FLOWS[name]
    most = flow.batch.max_size if flow.batch else 2
    return Function(name, f"{name}_job", (f"{name}/go",), max_batch=most, flow=flow)


FUNCTIONS = {name: made(name) for name in FLOWS}


def due_seconds() -> dict[str, float | None]:
    return {due.name: due.seconds for due in due_functions()}


@pytest.fixture(autouse=True)
def published(empty: None, publish_functions: Publish) -> None:
    """Publish all of them, and a worker with room for all."""
    publish_functions(*FUNCTIONS.values())
    rows(
        "INSERT INTO runyard.workers (name, host, pid, slots) VALUES ('w', 'h', 1, 1000)"
        " RETURNING name"
    )


def sent(name: str, *keys: str, level: int = 0) -> None:
    send([Event(f"{name}/go", {"k": key, "level": level}) for key in keys])


def sent_for_later(name: str, seconds: float, level: int = 0) -> None:
    at = int((time.time() + seconds) * 1000)
    send([Event(f"{name}/go", {"k": "a", "level": level}, ts=at)])


def begun(name: str) -> list[tuple[str, list[int]]]:
    """Claim and begin what can be; each batch, which is also its run, with its invocations."""
    batches = []
    for claimed in dispatch.claim(FUNCTIONS[name]) or []:
        begun = dispatch.begin(claimed.batch_id, claimed.batch_id)
        assert begun is not None
        batches.append((claimed.batch_id, [row["id"] for row in begun[1]]))
    return batches


def ended(name: str, status: str, delay: float = 0.0) -> None:
    for batch, ids in begun(name):
        attempt = 1 if status == "queued" else None
        dispatch.settle(batch, batch, [Outcome(i, status, delay, attempt=attempt) for i in ids])


def crashed(name: str, times: int = 2) -> None:
    for _ in range(times):
        for batch, _ in begun(name):
            dispatch.release(batch, "running", "queued", attempts=9, crashed=True, force=True)


def failing(name: str, seconds: float) -> None:
    rows(
        "INSERT INTO runyard.failed_launches (function, failures, until, error)"
        " VALUES (%s, 1, now() + make_interval(secs => %s), '{}') RETURNING function",
        name,
        seconds,
    )


def paused(name: str) -> None:
    dispatch.set_paused(name, True)


def given_older_keys(name: str) -> None:
    rows(
        "UPDATE runyard.functions SET generation = generation + 1 WHERE name = %s RETURNING 1", name
    )


STATES: dict[str, Callable[[str], object]] = {
    "nothing": lambda name: None,
    "one": lambda name: sent(name, "a"),
    "several": lambda name: sent(name, *"aabbc"),
    "later": lambda name: sent_for_later(name, 3600),
    "now and later": lambda name: (sent_for_later(name, 3600), sent(name, "a", "b")),
    "a higher priority later": lambda name: (
        sent_for_later(name, 3600, level=5),
        sent(name, "a", level=1),
    ),
    "a lower priority sooner": lambda name: (
        sent_for_later(name, 3600, level=5),
        sent_for_later(name, 1800, level=-5),
        sent_for_later(name, 2700, level=0),
    ),
    "running": lambda name: (sent(name, "a"), begun(name)),
    "running and more": lambda name: (sent(name, "a"), begun(name), sent(name, "a", "b", "c")),
    "running and more of its key": lambda name: (sent(name, "a"), begun(name), sent(name, "a")),
    "done": lambda name: (sent(name, "a", "b"), ended(name, "succeeded")),
    "done and more": lambda name: (
        sent(name, *"aabb"),
        ended(name, "succeeded"),
        sent(name, *"aabbc"),
    ),
    "to be retried": lambda name: (sent(name, "a", "b", "c"), ended(name, "queued", 600)),
    "to be retried now": lambda name: (sent(name, "a", "b", "c"), ended(name, "queued")),
    "paused": lambda name: (sent(name, "a"), paused(name)),
    "paused and nothing": paused,
    "failing to launch": lambda name: (sent(name, "a"), failing(name, 30)),
    "launching again": lambda name: (sent(name, *"abc"), failing(name, -1)),
    "one launch being tried": lambda name: (
        sent(name, *"aaabbb"),
        dispatch.claim(FUNCTIONS[name]),
        failing(name, -1),
    ),
    "suspected": lambda name: (sent(name, *"ab"), crashed(name)),
    "suspected and others": lambda name: (sent(name, *"ab"), crashed(name), sent(name, *"abc")),
    "a suspect running": lambda name: (sent(name, *"abc"), crashed(name), begun(name)),
    "keys of an earlier deploy": lambda name: (sent(name, *"ab"), given_older_keys(name)),
}


@pytest.mark.parametrize("state", sorted(STATES))
def test_what_can_be_claimed_is_due(state: str) -> None:
    for name in FUNCTIONS:
        STATES[state](name)
    said = due_seconds()
    claimed = [name for name, function in FUNCTIONS.items() if dispatch.claim(function)]
    assert [name for name in claimed if not is_now(said.get(name))] == []


@pytest.mark.parametrize("state", sorted(STATES))
def test_when_nothing_can_be_claimed_both_say_the_same(state: str) -> None:
    for name in FUNCTIONS:
        STATES[state](name)
    for function in FUNCTIONS.values():
        while dispatch.claim(function):
            pass
    said = due_seconds()
    of_each = {name: dispatch.seconds_until_due(of) for name, of in FUNCTIONS.items()}
    assert {name: said.get(name) for name in FUNCTIONS} == {
        name: pytest.approx(seconds, abs=1) for name, seconds in of_each.items()
    }


def is_now(seconds: float | None) -> bool:
    return seconds is not None and seconds <= 0


def test_a_function_with_nothing_queued_is_not_said() -> None:
    sent("plain", "a")
    ended("plain", "succeeded")
    assert due_seconds() == {}


def test_what_sleeps_is_due_when_it_wakes() -> None:
    sent("plain", "a")
    [(batch, [invocation])] = begun("plain")
    asked = {"invocation": invocation, "kind": "sleep", "seconds": 900}
    dispatch.register_waits(batch, batch, "nap", [asked])
    dispatch.settle(batch, batch, [Outcome(invocation, "sleeping", suspended=("nap",))])
    assert due_seconds() == {"plain": pytest.approx(900, abs=5)}


def test_lanes_without_room_wait_for_the_end_of_a_run() -> None:
    sent("one_of_a_key", *"abc")
    begun("one_of_a_key")
    sent("one_of_a_key", *"abc")
    assert due_seconds() == {"one_of_a_key": None}


def test_a_lane_with_room_behind_those_without_is_due() -> None:
    sent("one_of_a_key", *"abc")
    begun("one_of_a_key")
    sent("one_of_a_key", *"abcd")
    assert due_seconds() == {"one_of_a_key": 0}


def test_more_lanes_without_room_than_it_looks_at_are_due() -> None:
    keys = [f"k{n}" for n in range(60)]
    sent("one_of_a_key", *keys)
    while begun("one_of_a_key"):
        pass
    sent("one_of_a_key", *keys)
    assert due_seconds() == {"one_of_a_key": 0}


def test_a_full_batch_is_due_before_its_timeout() -> None:
    sent("batched", *"ab")
    assert due_seconds() == {"batched": pytest.approx(60, abs=5)}
    sent("batched", "c")
    assert due_seconds() == {"batched": 0}
