"""What a claim admits it may claim at once, in the same order as what waits in a lane already."""

from dataclasses import replace

import pytest

from runyard import Event, send
from runyard.engine import batch_claims
from runyard.functions.flow_control import Concurrency, Flow, Priority, RateLimit
from runyard.functions.registry import Function
from runyard.store import database
from tests.conftest import Publish
from tests.tables import rows

LANES_AT_ONCE = 150


@pytest.fixture
def admitting(publish_functions: Publish) -> Function:
    """A function with a lane and an admission rule for each value of `k`."""
    function = Function(
        "admitting",
        "some_job",
        ("admitting/go",),
        max_batch=4,
        flow=Flow(
            concurrency=(Concurrency(3, key="data.k"),),
            rate_limit=RateLimit(1_000, 60, key="data.k"),
            priority=Priority("data.level"),
        ),
    )
    publish_functions(function)
    return function


def arrive(*keys: str, level: int = 0) -> None:
    send([Event("admitting/go", {"k": key, "level": level}) for key in keys])


def claimed(function: Function, most: int) -> list[str]:
    """Claim one batch of up to that many; return its keys, sorted."""
    with database.connection() as connection:
        claims = batch_claims.claim_some(connection, replace(function, max_batch=most), 1)
    found = rows(
        "SELECT keys[1] AS key FROM runyard.invocations WHERE batch_id = ANY (%s) ORDER BY 1",
        [claim.batch_id for claim in claims],
    )
    return [str(row["key"]) for row in found]


def test_what_is_admitted_and_not_claimed_waits_in_its_lane(admitting: Function) -> None:
    arrive("a", "b", "c")
    claimed(admitting, 2)
    assert rows("SELECT lane, admitted FROM runyard.invocations WHERE status = 'queued'") == [
        {"lane": "c", "admitted": True}
    ]


def test_what_is_claimed_as_it_is_admitted_is_in_no_lane(admitting: Function) -> None:
    arrive("a")
    claimed(admitting, 2)
    assert rows("SELECT lane, admitted, status FROM runyard.invocations") == [
        {"lane": None, "admitted": True, "status": "claimed"}
    ]


def test_new_lanes_and_waiting_ones_take_turns(admitting: Function) -> None:
    arrive("b", "d", "f")
    turns = claimed(admitting, 1)
    arrive("c", "a")
    for _ in range(4):
        turns += claimed(admitting, 1)
    assert turns == ["b", "c", "d", "f", "a"]


def test_in_a_lane_the_highest_priority_is_first_whether_new_or_waiting(
    admitting: Function,
) -> None:
    arrive("a", "a")
    claimed(admitting, 1)
    arrive("a", level=5)
    claimed(admitting, 1)
    assert rows("SELECT priority FROM runyard.invocations WHERE status = 'queued'") == [
        {"priority": 0}
    ]


def test_new_and_waiting_invocations_of_a_key_share_its_limit(admitting: Function) -> None:
    arrive("a", "a")
    claimed(admitting, 1)
    arrive("a", "a", "a")
    assert claimed(admitting, 4) == ["a", "a"]


def test_a_new_lane_does_not_overtake_those_that_no_claim_has_reached(
    admitting: Function,
) -> None:
    arrive(*(f"{n:03}" for n in range(LANES_AT_ONCE + 10)))
    claimed(admitting, 1)
    arrive("zzz", level=5)
    assert claimed(admitting, 1) == ["001"]
