"""One query says for every function what `seconds_until_due` says for one."""

import time
from collections.abc import Callable

import pytest

from runyard import Event, send
from runyard.engine import batch_claims, batch_leases, settlement, wait_registration
from runyard.engine.control import set_paused
from runyard.engine.due import seconds_until_due
from runyard.engine.settlement import Outcome
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
from tests.store.due import due_seconds
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
    for claim in batch_claims.claim(FUNCTIONS[name]) or []:
        started = batch_leases.begin(claim.batch_id, claim.batch_id)
        assert started is not None
        batches.append((claim.batch_id, [row["id"] for row in started[1]]))
    return batches


def ended(name: str, status: str, delay: float = 0.0) -> None:
    for batch, ids in begun(name):
        attempt = 1 if status == "queued" else None
        settlement.settle(batch, batch, [Outcome(i, status, delay, attempt=attempt) for i in ids])


def crashed(name: str) -> None:
    for _ in range(2):
        for batch, _ in begun(name):
            batch_leases.release(batch, "running", "queued", attempts=9, crashed=True, force=True)


def failing(name: str, seconds: float) -> None:
    rows(
        "INSERT INTO runyard.failed_launches (function, failures, until, error)"
        " VALUES (%s, 1, now() + make_interval(secs => %s), '{}') RETURNING function",
        name,
        seconds,
    )


def paused(name: str) -> None:
    set_paused(name, True)


def given_older_keys(name: str) -> None:
    rows(
        "UPDATE runyard.functions SET generation = generation + 1 WHERE name = %s RETURNING 1", name
    )


Step = Callable[[str], object]


def sending(*keys: str, level: int = 0) -> Step:
    return lambda name: sent(name, *keys, level=level)


def sending_for_later(seconds: float, level: int = 0) -> Step:
    return lambda name: sent_for_later(name, seconds, level)


def ending(status: str, delay: float = 0.0) -> Step:
    return lambda name: ended(name, status, delay)


def failing_for(seconds: float) -> Step:
    return lambda name: failing(name, seconds)


def claimed(name: str) -> None:
    batch_claims.claim(FUNCTIONS[name])


# What has happened to a function, in order.
STATES: dict[str, tuple[Step, ...]] = {
    "nothing": (),
    "one": (sending("a"),),
    "several": (sending(*"aabbc"),),
    "later": (sending_for_later(3600),),
    "now and later": (sending_for_later(3600), sending("a", "b")),
    "a higher priority later": (sending_for_later(3600, level=5), sending("a", level=1)),
    "a lower priority sooner": (
        sending_for_later(3600, level=5),
        sending_for_later(1800, level=-5),
        sending_for_later(2700),
    ),
    "running": (sending("a"), begun),
    "running and more": (sending("a"), begun, sending("a", "b", "c")),
    "running and more of its key": (sending("a"), begun, sending("a")),
    "done": (sending("a", "b"), ending("succeeded")),
    "done and more": (sending(*"aabb"), ending("succeeded"), sending(*"aabbc")),
    "to be retried": (sending(*"abc"), ending("queued", 600)),
    "to be retried now": (sending(*"abc"), ending("queued")),
    "paused": (sending("a"), paused),
    "paused and nothing": (paused,),
    "failing to launch": (sending("a"), failing_for(30)),
    "launching again": (sending(*"abc"), failing_for(-1)),
    "one launch being tried": (sending(*"aaabbb"), claimed, failing_for(-1)),
    "suspected": (sending(*"ab"), crashed),
    "suspected and others": (sending(*"ab"), crashed, sending(*"abc")),
    "a suspect running": (sending(*"abc"), crashed, begun),
    "keys of an earlier deploy": (sending(*"ab"), given_older_keys),
}


def bring_all_to(state: str) -> None:
    for name in FUNCTIONS:
        for step in STATES[state]:
            step(name)


@pytest.mark.parametrize("state", sorted(STATES))
def test_what_can_be_claimed_is_due(state: str) -> None:
    bring_all_to(state)
    said = due_seconds()
    claimable = [name for name, function in FUNCTIONS.items() if batch_claims.claim(function)]
    assert [name for name in claimable if not is_now(said.get(name))] == []


@pytest.mark.parametrize("state", sorted(STATES))
def test_when_nothing_can_be_claimed_both_say_the_same(state: str) -> None:
    bring_all_to(state)
    for function in FUNCTIONS.values():
        while batch_claims.claim(function):
            pass
    said = due_seconds()
    of_each = {name: seconds_until_due(of) for name, of in FUNCTIONS.items()}
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
    wait_registration.register_waits(batch, batch, "nap", [asked])
    settlement.settle(batch, batch, [Outcome(invocation, "sleeping", suspended=("nap",))])
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
    assert is_now(due_seconds()["one_of_a_key"])


def test_more_lanes_without_room_than_it_looks_at_are_due() -> None:
    keys = [f"k{n}" for n in range(60)]
    sent("one_of_a_key", *keys)
    while begun("one_of_a_key"):
        pass
    sent("one_of_a_key", *keys)
    assert is_now(due_seconds()["one_of_a_key"])


def test_a_full_batch_is_due_before_its_timeout() -> None:
    sent("batched", *"ab")
    assert due_seconds() == {"batched": pytest.approx(60, abs=5)}
    sent("batched", "c")
    assert due_seconds() == {"batched": 0}
