"""The memory for request bodies: one large body of an unknown sender at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runyard.gateway.http.body_memory import LARGEST_BODY, BodyMemory

MIB = 1024 * 1024


def bodies() -> BodyMemory:
    return BodyMemory(256 * MIB)


@contextmanager
def rejected() -> Iterator[None]:
    with pytest.raises(Problem) as caught:
        yield
    assert (caught.value.status, caught.value.code) == (503, "busy")


def unknown(all_bodies: Bodies, name: str = "192.0.2.1") -> Held:
    """A request of an unknown sender that may have a body of the largest size."""
    return Held(all_bodies.unknown, name, all_bodies.large)


def test_unknown_senders_have_one_large_body_at_a_time() -> None:
    held = bodies()
    first, second = unknown(held), unknown(held, "192.0.2.2")
    first.check(LARGEST)
    first.grow(LARGEST)
    with rejected():
        second.check(LARGEST)
    first.release()
    second.grow(LARGEST_BODY)


def test_a_large_body_leaves_room_for_other_senders() -> None:
    held = bodies()
    large = unknown(held)
    for _ in range(20):
        large.grow(MIB)
    others = [Held(held.unknown, f"192.0.2.{number}") for number in (2, 3)]
    for other in others:
        other.grow(12 * MIB)


def test_a_large_body_keeps_its_place_when_its_sender_becomes_known() -> None:
    held = Bodies(64 * MIB)
    large = unknown(held)
    large.grow(LARGEST)
    large.known(held.known, "webhook github")
    with rejected():
        unknown(held, "192.0.2.2").grow(LARGEST)
    large.release()
    unknown(held, "192.0.2.2").grow(LARGEST)


def test_a_small_body_moves_to_the_room_of_known_senders() -> None:
    held = bodies()
    small = unknown(held)
    small.grow(12 * MIB)
    small.known(held.known, "webhook github")
    unknown(held).grow(12 * MIB)


def test_a_large_body_is_rejected_without_permission_for_it() -> None:
    held = bodies()
    with rejected():
        Held(held.unknown, "192.0.2.1").grow(17 * MIB)
