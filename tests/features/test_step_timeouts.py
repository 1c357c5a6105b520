"""A step that hangs outside of a worker: its invocation fails, the others resume in another run."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from runyard import Item
from runyard.testing import Yard
from tests.features.functions import deeds


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that hanging steps wait for until the test is over."""
    event = threading.Event()
    yield event
    event.set()
    deeds.clear()


def test_a_thread_that_hangs_fails_its_invocation_alone(yard: Yard, never: threading.Event) -> None:
    begun: Counter[int] = Counter()

    def do(item: Item) -> str:
        begun[item.event.data["n"]] += 1
        if item.event.data["n"] == 2:
            never.wait()
        return "done"

    deeds["do"] = do
    sent = [yard.send("limited_giver/go", {"n": n}) for n in range(20)]
    yard.work()
    assert [each.invocation.status for n, each in enumerate(sent) if n != 2] == ["succeeded"] * 19
    assert [each.invocation.attempt for n, each in enumerate(sent) if n != 2] == [1] * 19
    assert begun == dict.fromkeys(range(20), 1)
    late = sent[2].invocation
    assert late.error is not None
    assert (late.status, late.error["type"], late.error["retry_in_seconds"]) == (
        "queued",
        "StepTimeout",
        10.0,
    )
    assert late.steps["give"].tries == 1


def test_a_step_that_hung_can_succeed_with_its_next_attempt(
    yard: Yard, never: threading.Event
) -> None:
    def do(item: Item) -> int:
        if item.event.data["n"] == 0 and item.attempt == 1:
            never.wait()
        return item.attempt

    deeds["do"] = do
    sent = [yard.send("limited_giver/go", {"n": n}) for n in range(3)]
    yard.work()
    yard.advance(10)
    assert [each.invocation.output for each in sent] == [2, 1, 1]


def test_the_result_of_a_late_thread_is_not_saved(yard: Yard, never: threading.Event) -> None:
    ended = threading.Event()

    def do(item: Item) -> str:
        if item.event.data["n"] == 0:
            never.wait()
            ended.set()
        return "late"

    deeds["do"] = do
    sent = [yard.send("limited_giver/go", {"n": n}) for n in range(2)]
    yard.work()
    never.set()
    assert ended.wait(10)
    assert (sent[0].invocation.status, sent[0].invocation.steps["give"].output) == ("queued", None)


def test_a_run_that_is_told_to_stop_abandons_its_threads(
    yard: Yard, never: threading.Event
) -> None:
    hung = threading.Event()

    def do(item: Item) -> None:
        if item.event.data["n"] == 0:
            hung.set()
            never.wait()
        elif hung.wait(10):
            raise KeyboardInterrupt

    deeds["do"] = do
    for n in range(2):
        yard.send("limited_giver/go", {"n": n})
    [batch] = yard.claim("limited_giver")
    yard.execute("limited_giver", batch)
    assert not never.is_set()
