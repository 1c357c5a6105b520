"""The memory for request bodies, limited in all, for unidentified senders, and for each sender.

A body counts from its first byte until its request is done; the announced size reserves nothing.
A body that does not fit is rejected at once, so that neither memory nor other senders suffer.
"""

from collections import Counter
from functools import lru_cache

from starlette.datastructures import State

from runyard.gateway.http.errors import HttpError
from runyard.gateway.http.throttled_log import ThrottledWarning
from runyard.settings import settings

# The most that GitHub posts (25 MB), which is the largest body of any sender that can be identified
# only once all of it is there.
LARGEST_BODY = 25 * 1024 * 1024

_rejected = ThrottledWarning(
    "%d requests were rejected because the memory for bodies is full (the latest from %s)"
)


class MemoryPool:
    """Counts the bytes in use, in all and for each sender.

    Parameters
    ----------
    limit, share
        Bytes that may be in use in all, and by one sender.
    """

    def __init__(self, limit: int, share: int) -> None:
        self._limit = limit
        self.share = share
        self._used = 0
        self._used_by: Counter[str] = Counter()

    def fits(self, sender: str, size: int) -> bool:
        """Whether a sender may use this many more bytes."""
        return self._used + size <= self._limit and self._used_by[sender] + size <= self.share

    def take(self, sender: str, size: int) -> None:
        """Count this many bytes of a sender; a negative number returns them."""
        self._used += size
        self._used_by[sender] += size
        if not self._used_by[sender]:
            del self._used_by[sender]


class BodyMemory:
    """The pools: for senders whose key is known, and for those not yet identified.

    Parameters
    ----------
    limit
        Bytes in all. An eighth of them, and at least 24 MiB, is for unidentified senders. One
        sender may use half of a pool.
    """

    def __init__(self, limit: int) -> None:
        unknown = max(limit // 8, 24 * 1024 * 1024)
        self.unknown = MemoryPool(unknown, unknown // 2)
        self.known = MemoryPool(limit - unknown, (limit - unknown) // 2)
        # A separate pool for one large body, which would leave no room for other unidentified
        # senders.
        self.large = MemoryPool(LARGEST_BODY, LARGEST_BODY)


class Reservation:
    """The memory that one request's body uses.

    Parameters
    ----------
    pool, sender
        Where it is counted, and for whom.
    large
        Where it is counted once it exceeds a sender's share of `pool`; None if it may not.
    """

    def __init__(self, pool: MemoryPool, sender: str, large: MemoryPool | None = None) -> None:
        self._pool = pool
        self._sender = sender
        self._large = large
        self._size = 0

    def check(self, size: int) -> None:
        """Raise `HttpError` unless a body of this size fits now."""
        pool = self._pool_for(size)
        if not pool.fits(self._sender, size - (self._size if pool is self._pool else 0)):
            _rejected.warn(self._sender)
            raise memory_full()

    def grow(self, size: int) -> None:
        """Reserve this many more bytes; raises `HttpError` if they do not fit."""
        self.check(self._size + size)
        pool = self._pool_for(self._size + size)
        if pool is not self._pool:
            self._move(pool, self._sender)
        pool.take(self._sender, size)
        self._size += size

    def identify(self, pool: MemoryPool, sender: str) -> None:
        """Move the bytes to the pool of a sender that is known by now.

        A large body stays where it is. Raises `HttpError` if a small one does not fit.
        """
        if self._pool is not self._large:
            self._large = None
            self._move(pool, sender)

    def _pool_for(self, size: int) -> MemoryPool:
        return self._large if self._large is not None and size > self._pool.share else self._pool

    def _move(self, pool: MemoryPool, sender: str) -> None:
        size = self._size
        self.release()
        self._pool, self._sender = pool, sender
        self.grow(size)

    def release(self) -> None:
        """Return all of it."""
        if self._size:
            self._pool.take(self._sender, -self._size)
            self._size = 0


def reserve(state: State, sender: str, *, known: bool, max_bytes: int) -> Reservation:
    """Open the reservation of the request with this state; `release` ends it."""
    memory = _memory()
    pool = memory.known if known else memory.unknown
    reservation = Reservation(pool, sender, memory.large if max_bytes > pool.share else None)
    state.reservation = reservation
    return reservation


def sender_identified(state: State, sender: str) -> None:
    """Count the body of the request with this state for a sender that is known by now.

    Raises `HttpError` if it does not fit.
    """
    reservation: Reservation | None = getattr(state, "reservation", None)
    if reservation is not None:
        reservation.identify(_memory().known, sender)


def release(state: dict[str, object]) -> None:
    """End the reservation of the request with this state."""
    reservation = state.get("reservation")
    if isinstance(reservation, Reservation):
        reservation.release()


def memory_full() -> HttpError:
    """The error for a request that does not fit into memory."""
    return HttpError(
        503,
        "busy",
        "the memory for incoming requests is full; nothing was done. Send it again",
        headers={"Retry-After": "1"},
    )


@lru_cache(maxsize=1)
def _memory() -> BodyMemory:
    return BodyMemory(settings().body_bytes)
