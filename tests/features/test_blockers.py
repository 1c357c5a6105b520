"""What holds an invocation back, read from the event table as flow control has left it."""

from datetime import timedelta

from runyard.gateway.dev.blockers import Reason, reasons
from runyard.store import database
from runyard.store.queries import fetch_one
from runyard.testing import Invocation, Yard


def held(invocation: Invocation, slots: int = 2) -> list[Reason]:
    with database.connection() as connection:
        row = fetch_one(connection, "blockers", invocation=invocation.id)
    assert row is not None
    return reasons(row, [], slots, 0)


def test_a_throttle_is_named_with_the_time_of_the_next_beginning(yard: Yard) -> None:
    sent = [yard.send("throttled/go") for _ in range(4)]
    yard.work()
    assert [each.invocation.status for each in sent] == [
        "succeeded",
        "succeeded",
        "queued",
        "queued",
    ]
    [reason] = held(sent[2].invocation)
    assert reason.text == "waiting: throttled to one every 10 s"
    assert reason.until == yard.now + timedelta(seconds=10)
    yard.advance(10)
    assert sent[2].invocation.status == "succeeded"


def test_a_throttle_by_key_delays_only_that_key(yard: Yard) -> None:
    first, second, other = (
        yard.send("throttled_by/go", {"tenant": tenant}) for tenant in (7, 7, 8)
    )
    yard.work()
    assert (first.invocation.status, other.invocation.status) == ("succeeded", "succeeded")
    [reason] = held(second.invocation)
    assert reason.text == "waiting: throttled to one every 60 s for tenant 7"


def test_another_attempt_is_named_with_its_time(yard: Yard) -> None:
    invocation = yard.run("plain", {"fails": 1})
    [reason] = held(invocation)
    assert reason == Reason(
        "waiting: attempt 2 of the failed step", yard.now + timedelta(seconds=10)
    )


def test_an_unblocked_invocation_waits_for_a_worker(yard: Yard) -> None:
    sent = yard.send("plain/go")
    assert [reason.text for reason in held(sent.invocation)] == [
        "waiting: it runs with the next batch"
    ]
    assert held(sent.invocation, slots=0)[0].text.startswith("waiting: no warm worker is alive")
    yard.work()
    assert held(sent.invocation) == []
