"""When the results of a step are kept, while it is still running."""

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
def nothing_said() -> Iterator[None]:
    yield
    deeds.clear()


def kept() -> set[int]:
    """The invocations whose result is kept."""
    with database.connection() as connection:
        return {
            int(str(row["invocation_id"]))
            for row in connection.execute("SELECT invocation_id FROM runyard.steps").fetchall()
        }


def keepers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "runyard-keeper"]


def send(yard: Yard, function: str, count: int, deed: str) -> None:
    for n in range(count):
        yard.send(f"{function}/go", {"n": n, "deed": deed})


def test_a_result_is_kept_in_time_while_the_step_works_on_the_next_item(yard: Yard) -> None:
    done: list[int] = []
    seen: list[bool] = []

    def work(item: Item) -> str:
        if done:
            wait_until(lambda: set(done) <= kept(), 5)
            seen.append(True)
        done.append(item.id)
        return "done"

    deeds["work"] = work
    send(yard, "giver", 3, "work")
    yard.work()
    assert seen == [True, True]


def test_the_thread_that_keeps_results_ends_with_the_step(yard: Yard) -> None:
    during: list[int] = []
    deeds["work"] = lambda item: during.append(len(keepers()))
    send(yard, "giver", 3, "work")
    yard.work()
    assert during == [1, 1, 1]
    assert keepers() == []


def test_nothing_more_begins_once_the_thread_finds_that_the_lease_is_gone(yard: Yard) -> None:
    begun: list[int] = []

    def work(item: Item) -> None:
        begun.append(item.event.data["n"])
        if len(begun) == 1:
            with database.connection() as connection:
                connection.execute("UPDATE runyard.batches SET status = 'lost'")
        else:
            wait_until(lambda: not keepers(), 5)

    deeds["work"] = work
    send(yard, "giver", 4, "work")
    [batch] = yard.claim("giver")
    yard.execute("giver", batch)
    assert begun == [0, 1]
    assert kept() == set()


def test_with_a_window_of_one_a_thread_takes_nothing_before_its_last_result_is_kept(
    yard: Yard,
) -> None:
    last = threading.local()
    missing: list[int] = []
    together = threading.Barrier(4)

    def work(item: Item) -> Any:
        before = getattr(last, "item", None)
        if before is not None and before not in kept():
            missing.append(before)
        if before is None:
            together.wait(10)  # each of the four threads has one
        last.item = item.id
        return "x" * 200_000

    deeds["do"] = work
    send(yard, "threaded_giver", 40, "")
    yard.work()
    assert missing == []


def test_threads_do_every_item_once_and_keep_all(yard: Yard) -> None:
    done: list[int] = []
    deeds["do"] = lambda item: done.append(item.id)
    send(yard, "threaded_giver", 40, "")
    yard.work()
    assert sorted(done) == sorted(kept())
    assert len(done) == 40


def test_an_item_that_fails_in_a_thread_takes_nobody_with_it(yard: Yard) -> None:
    def work(item: Item) -> str:
        if item.event.data["n"] == 5:
            raise SystemExit(1)
        return "done"

    deeds["do"] = work
    send(yard, "threaded_giver", 12, "")
    yard.work()
    statuses = [invocation.status for invocation in yard.invocations("threaded_giver")]
    assert statuses == ["succeeded"] * 5 + ["queued"] + ["succeeded"] * 6
