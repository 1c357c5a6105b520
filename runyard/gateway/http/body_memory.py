"""The bytes of requests that this process holds at a time: bounded in all, for senders that are not known yet, and for each sender.

A body is counted as it comes, from its first byte until its request is done: what was only announced holds nothing. Where one does not fit it is
refused at once, so that neither memory nor other senders suffer.
"""

from collections import Counter
from functools import lru_cache

from starlette.datastructures import State

from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.throttled_log import ThrottledWarning
from runyard.settings import settings

# What GitHub posts at most (25 MB): the largest body of a sender who is not known before all of it is there.
LARGEST_BODY = 25 * 1024 * 1024

_refused = ThrottledWarning(
    "%d requests were refused since their bodies did not fit beside those that are held (the latest: %s)"
)


class MemoryPool:
    """A part of the memory for bodies.

    Parameters
    ----------
    most, share
        Bytes that may be held in all, and of those for one sender.
    """

    def __init__(self, most: int, share: int) -> None:
        self._most = most
        self.share = share
        self._held = 0
        self._of: Counter[str] = Counter()

    def fits(self, sender: str, size: int) -> bool:
        """Whether so many bytes more of a sender may be held."""
        return self._held + size <= self._most and self._of[sender] + size <= self.share

    def take(self, sender: str, size: int) -> None:
        """Hold bytes of a sender; give them back with less than nothing."""
        self._held += size
        self._of[sender] += size
        if not self._of[sender]:
            del self._of[sender]


class BodyMemory:
    """The parts: for senders whose key is known, and for those who may be anybody.

    Parameters
    ----------
    most
        Bytes in all; an eighth of them, 24 MiB at least, are for senders that are not known. A sender may have half of a part.
    """

    def __init__(self, most: int) -> None:
        unknown = max(most // 8, 24 * 1024 * 1024)
        self.unknown = MemoryPool(unknown, unknown // 2)
        self.known = MemoryPool(most - unknown, (most - unknown) // 2)
        # One at a time, beside all others: else one large body would leave no room for those of other strangers.
        self.large = MemoryPool(LARGEST_BODY, LARGEST_BODY)


class Reservation:
    """What is held for one request.

    Parameters
    ----------
    part, sender
        Where it is held, and for whom.
    large
        Where it is held once it is larger than what a sender may have there; None where it may not be so large.
    """

    def __init__(self, part: MemoryPool, sender: str, large: MemoryPool | None = None) -> None:
        self._part = part
        self._sender = sender
        self._large = large
        self._size = 0

    def check(self, size: int) -> None:
        """Raise `HttpError` unless a body of this size fits now."""
        part = self._part_of(size)
        if not part.fits(self._sender, size - (self._size if part is self._part else 0)):
            _refused.warn(self._sender)
            raise memory_full()

    def grow(self, size: int) -> None:
        """Hold so many bytes more; raises `HttpError` where they do not fit."""
        self.check(self._size + size)
        part = self._part_of(self._size + size)
        if part is not self._part:
            self._move(part, self._sender)
        part.take(self._sender, size)
        self._size += size

    def identify(self, part: MemoryPool, sender: str) -> None:
        """Its sender is known now, and has its share there; raises `HttpError` where it does not fit. A large one stays where it is."""
        if self._part is not self._large:
            self._large = None
            self._move(part, sender)

    def _part_of(self, size: int) -> MemoryPool:
        return self._large if self._large is not None and size > self._part.share else self._part

    def _move(self, part: MemoryPool, sender: str) -> None:
        size = self._size
        self.release()
        self._part, self._sender = part, sender
        self.grow(size)

    def release(self) -> None:
        """Nothing of it is held any more."""
        if self._size:
            self._part.take(self._sender, -self._size)
            self._size = 0


def reserve(state: State, sender: str, *, known: bool, most: int) -> Reservation:
    """The bytes that are held for the request with this state from now on, until `release`; its body may have `most` bytes."""
    bodies = _memory()
    part = bodies.known if known else bodies.unknown
    state.reservation = Reservation(part, sender, bodies.large if most > part.share else None)
    reservation: Reservation = state.reservation
    return reservation


def sender_identified(state: State, sender: str) -> None:
    """Who has sent the request with this state was not known, and is now; raises `HttpError` where there is no room for its body."""
    reservation: Reservation | None = getattr(state, "reservation", None)
    if reservation is not None:
        reservation.identify(_memory().known, sender)


def release(state: dict[str, object]) -> None:
    """The request with this state is done."""
    reservation = state.get("reservation")
    if isinstance(reservation, Reservation):
        reservation.release()


def memory_full() -> HttpError:
    """What is sent does not fit beside what is held."""
    return HttpError(
        503,
        "busy",
        "more is coming in than can be held at a time; nothing was done. Send it again",
        headers={"Retry-After": "1"},
    )


@lru_cache(maxsize=1)
def _memory() -> BodyMemory:
    return BodyMemory(settings().body_bytes)
