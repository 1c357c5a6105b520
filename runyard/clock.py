"""The time by which everything durable is judged: the real one, unless a test has taken it over.

The database has the same clock (`runyard.now()`): a connection that is handed out while the time is a test's is told of it.
"""

from datetime import UTC, datetime

_frozen: datetime | None = None


def now() -> datetime:
    """The time, in UTC."""
    return _frozen or datetime.now(UTC)


def frozen() -> datetime | None:
    """The time of the test that owns it, None for the real one."""
    return _frozen


def freeze(at: datetime | None) -> None:
    """Set the time (with a zone), or give it back with None."""
    global _frozen
    _frozen = at
