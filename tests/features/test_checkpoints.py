"""When the results of a step are saved while it is still running."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from runyard import Item
from runyard.store import database
from runyard.testing import Yard
from tests.conftest import wait_until
from tests.features.functions import deeds


@pytest.fixture(autouse=True)
def no_deeds() -> Iterator[None]:
    yield
    deeds.clear()


def saved() -> set[int]:
    """The invocations whose result is saved."""
    with database.connection() as connection:
        return {
            int(str(row["invocation_id"]))
            for row in connection.execute("SELECT invocation_id FROM runyard.steps").fetchall()
        }


def recorder_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "runyard-recorder"]


def send(yard: Yard, function: str, count: int, deed: str) -> None:
    for n in range(count):
        yard.send(f"{function}/go", {"n": n, "deed": deed})


def test_a_result_is_saved_in_time_while_the_step_works_on_the_next_item(yard: Yard) -> None:
    done: list[int] = []
    seen: list[bool] = []

    def work(item: Item) -> str:
        if done:
            wait_until(lambda: set(done) <= saved(), 5)
            seen.append(True)
        done.append(item.id)
        return "done"

    deeds["work"] = work
    send(yard, "giver", 3, "work")
    yard.work()
    assert seen == [True, True]


def test_the_recorder_thread_ends_with_the_step(yard: Yard) -> None:
    during: list[int] = []
    deeds["work"] = lambda item: during.append(len(recorder_threads()))
    send(yard, "giver", 3, "work")
    yard.work()
    assert during == [1, 1, 1]
    assert recorder_threads() == []


def test_no_item_begins_once_the_recorder_thread_finds_the_lease_gone(yard: Yard) -> None:
    begun: list[int] = []

    def work(item: Item) -> None:
        begun.append(item.event.data["n"])
        if len(begun) == 1:
            with database.connection() as connection:
                connection.execute("UPDATE runyard.batches SET status = 'lost'")
        else:
            wait_until(lambda: not recorder_threads(), 5)

    deeds["work"] = work
    send(yard, "giver", 4, "work")
    [batch] = yard.claim("giver")
    yard.execute("giver", batch)
    assert begun == [0, 1]
    assert saved() == set()


def test_with_a_checkpoint_every_result_a_thread_takes_no_item_before_its_last_is_saved(
    yard: Yard,
) -> None:
    last = threading.local()
    missing: list[int] = []
    all_threads = threading.Barrier(4)

    def work(item: Item) -> Any:
        before = getattr(last, "item", None)
        if before is not None and before not in saved():
            missing.append(before)
        if before is None:
            all_threads.wait(10)  # each of the four threads has an item
        last.item = item.id
        return "x" * 200_000

    deeds["do"] = work
    send(yard, "threaded_giver", 40, "")
    yard.work()
    assert missing == []


def test_threads_run_every_item_once_and_save_every_result(yard: Yard) -> None:
    done: list[int] = []
    deeds["do"] = lambda item: done.append(item.id)
    send(yard, "threaded_giver", 40, "")
    yard.work()
    assert sorted(done) == sorted(saved())
    assert len(done) == 40


def test_an_item_that_fails_in_a_thread_fails_alone(yard: Yard) -> None:
    def work(item: Item) -> str:
        if item.event.data["n"] == 5:
            raise SystemExit(1)
        return "done"

    deeds["do"] = work
    send(yard, "threaded_giver", 12, "")
    yard.work()
    statuses = [invocation.status for invocation in yard.invocations("threaded_giver")]
    assert statuses == ["succeeded"] * 5 + ["queued"] + ["succeeded"] * 6
