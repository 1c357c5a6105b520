"""The bytes of bodies that a process holds: large ones of strangers one at a time, beside all others."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runyard.gateway.http.errors import Problem
from runyard.gateway.http.held_bodies import LARGEST, Bodies, Held

MIB = 1024 * 1024


def bodies() -> Bodies:
    return Bodies(256 * MIB)


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(Problem) as caught:
        yield
    assert (caught.value.status, caught.value.code) == (503, "busy")


def stranger(held_in: Bodies, name: str = "192.0.2.1") -> Held:
    """A request of a stranger that may have the largest body."""
    return Held(held_in.unknown, name, held_in.large)


def test_there_is_one_large_body_of_strangers_at_a_time() -> None:
    here = bodies()
    first, second = stranger(here), stranger(here, "192.0.2.2")
    first.check(LARGEST)
    first.grow(LARGEST)
    with refused():
        second.check(LARGEST)
    first.release()
    second.grow(LARGEST)


def test_it_grows_into_its_place_and_leaves_the_room_of_others() -> None:
    here = bodies()
    large = stranger(here)
    for _ in range(20):
        large.grow(MIB)
    others = [Held(here.unknown, f"192.0.2.{number}") for number in (2, 3)]
    for other in others:
        other.grow(12 * MIB)


def test_a_large_body_stays_in_its_place_when_its_sender_is_known() -> None:
    here = Bodies(64 * MIB)
    large = stranger(here)
    large.grow(LARGEST)
    large.known(here.known, "webhook github")
    with refused():
        stranger(here, "192.0.2.2").grow(LARGEST)
    large.release()
    stranger(here, "192.0.2.2").grow(LARGEST)


def test_a_small_body_goes_to_the_part_of_known_senders() -> None:
    here = bodies()
    small = stranger(here)
    small.grow(12 * MIB)
    small.known(here.known, "webhook github")
    stranger(here).grow(12 * MIB)


def test_who_may_not_have_a_large_body_has_none() -> None:
    here = bodies()
    with refused():
        Held(here.unknown, "192.0.2.1").grow(17 * MIB)
