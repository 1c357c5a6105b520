"""The time by which everything durable is judged: the real one, unless a test has frozen it.

The database has the same clock (`runyard.now()`): a connection that is handed out while the time is
frozen is given that time.
"""

from datetime import UTC, datetime

_frozen: datetime | None = None


def now() -> datetime:
    """Return the time, in UTC."""
    return _frozen or datetime.now(UTC)


def frozen() -> datetime | None:
    """Return the frozen time; None when it is the real one."""
    return _frozen


def freeze(at: datetime | None) -> None:
    """Freeze the time (with a time zone), or return to the real one with None."""
    global _frozen
    _frozen = at
