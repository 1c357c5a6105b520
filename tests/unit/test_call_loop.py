"""Calls of a run on the loop that all runs of a process share."""

import asyncio
import threading
from contextlib import suppress

import pytest

from runyard.apps.call_loop import call_loop
from runyard.apps.calls import Caller
from runyard.engine.lease import Lease
from runyard.errors import LeaseLost


@pytest.fixture
def lease() -> Lease:
    """A lease that nobody renews."""
    return Lease("batch", "run")


def check(lease: Lease) -> None:
    if lease.lost.is_set():
        raise LeaseLost("batch")


async def nothing(_: Caller) -> int:
    return 7


def test_a_result_is_given_back(lease: Lease) -> None:
    assert call_loop.run(nothing, lambda: check(lease), lease.telling) == 7


def test_an_error_is_raised(lease: Lease) -> None:
    async def fail(_: Caller) -> None:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError, match="no answer"):
        call_loop.run(fail, lambda: check(lease), lease.telling)


def test_a_lost_lease_ends_what_goes_on(lease: Lease) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def forever(_: Caller) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    threading.Thread(target=lambda: (begun.wait(), lease.lose())).start()
    with pytest.raises(LeaseLost):
        call_loop.run(forever, lambda: check(lease), lease.telling)
    assert ended.wait(10)


def test_a_run_that_is_interrupted_ends_after_what_it_has_begun(lease: Lease) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def tidy_up(_: Caller) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.2)
            ended.set()

    threading.Thread(target=lambda: (begun.wait(), lease.lose())).start()
    with pytest.raises(LeaseLost):
        call_loop.run(tidy_up, lambda: check(lease), lease.telling)
    assert ended.is_set()


def test_a_run_waits_no_longer_than_it_is_told_for_what_does_not_end(lease: Lease) -> None:
    begun, over, ended = threading.Event(), threading.Event(), threading.Event()

    async def stubborn(_: Caller) -> None:
        begun.set()
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
        ended.set()

    threading.Thread(target=lambda: (begun.wait(), lease.lose())).start()
    with pytest.raises(LeaseLost):
        call_loop.run(stubborn, lambda: check(lease), lease.telling, grace=0.1)
    assert not ended.is_set()
    over.set()
    assert ended.wait(10)


def test_calls_are_made_anew_after_the_client_was_closed(lease: Lease) -> None:
    clients: list[Caller] = []

    async def note(client: Caller) -> None:
        clients.append(client)

    for _ in range(2):
        call_loop.run(note, lambda: check(lease), lease.telling)
        call_loop.close()
    first, second = clients
    assert first is not second
    assert first._session.closed


def test_nothing_listens_to_a_lease_afterwards(lease: Lease) -> None:
    call_loop.run(nothing, lambda: check(lease), lease.telling)
    assert lease._listeners == []


@pytest.mark.parametrize("change", ["lose", "stop"])
def test_a_lease_tells_of_its_end(lease: Lease, change: str) -> None:
    told: list[str] = []
    with lease.telling(lambda: told.append(change)):
        getattr(lease, change)()
    assert told == [change]


def test_a_lease_tells_of_each_cancelled_invocation_once(lease: Lease) -> None:
    told: list[set[int]] = []
    with lease.telling(lambda: told.append(set(lease.cancelled))):
        lease.cancel([1])
        lease.cancel([1])
        lease.cancel([1, 2])
    assert told == [{1}, {1, 2}]
