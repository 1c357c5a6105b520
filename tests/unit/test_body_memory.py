"""The memory for request bodies: large ones of unknown senders are read one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runyard.gateway.http.body_memory import LARGEST_BODY, BodyMemory, Reservation
from runyard.gateway.http.errors import HttpError

MIB = 1024 * 1024


def bodies() -> BodyMemory:
    return BodyMemory(256 * MIB)


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(HttpError) as caught:
        yield
    assert (caught.value.status, caught.value.code) == (503, "busy")


def stranger(held_in: BodyMemory, name: str = "192.0.2.1") -> Reservation:
    """A request of a stranger that may have the largest body."""
    return Reservation(held_in.unknown, name, held_in.large)


def test_large_bodies_of_unknown_senders_are_read_one_at_a_time() -> None:
    here = bodies()
    first, second = stranger(here), stranger(here, "192.0.2.2")
    first.check(LARGEST_BODY)
    first.grow(LARGEST_BODY)
    with refused():
        second.check(LARGEST_BODY)
    first.release()
    second.grow(LARGEST_BODY)


def test_it_grows_into_its_place_and_leaves_the_room_of_others() -> None:
    here = bodies()
    large = stranger(here)
    for _ in range(20):
        large.grow(MIB)
    others = [Reservation(here.unknown, f"192.0.2.{number}") for number in (2, 3)]
    for other in others:
        other.grow(12 * MIB)


def test_a_large_body_stays_in_its_place_when_its_sender_is_known() -> None:
    here = BodyMemory(64 * MIB)
    large = stranger(here)
    large.grow(LARGEST_BODY)
    large.identify(here.known, "webhook github")
    with refused():
        stranger(here, "192.0.2.2").grow(LARGEST_BODY)
    large.release()
    stranger(here, "192.0.2.2").grow(LARGEST_BODY)


def test_a_small_body_goes_to_the_part_of_known_senders() -> None:
    here = bodies()
    small = stranger(here)
    small.grow(12 * MIB)
    small.identify(here.known, "webhook github")
    stranger(here).grow(12 * MIB)


def test_who_may_not_have_a_large_body_has_none() -> None:
    here = bodies()
    with refused():
        Reservation(here.unknown, "192.0.2.1").grow(17 * MIB)
