"""Calls of a run on the loop that all runs of a process share."""

import asyncio
import threading

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
