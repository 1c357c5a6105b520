"""What flow control and waits need done now and then, whatever the functions do."""

from runyard import clock
from runyard.engine import run_output
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import fetch_one
from runyard.syntax.retention_policy import Retention

_EXPIRE_CHUNK = 500


def match_waits() -> int:
    """Match events that came since the last call with waits; return how many waits are over."""
    with database.connection() as connection:
        row = fetch_one(connection, "match")
    return int(row["count"]) if row else 0


def expire() -> int:
    """Cancel invocations whose `Timeouts` have passed; return how many."""
    total = 0
    with database.connection() as connection:
        while row := fetch_one(connection, "expired", limit=_EXPIRE_CHUNK):
            total += int(row["count"])
            if row["count"] < _EXPIRE_CHUNK:
                break
    return total


def apply_deferred_requests() -> int:
    """Apply the requests of SQL that their transactions could not; return how many."""
    with database.connection() as connection:
        row = fetch_one(connection, "apply_deferred_requests")
    return int(row["count"] or 0) if row else 0


def purge() -> int:
    """Delete rows that flow control and waits no longer need; return how many."""
    with database.connection() as connection:
        row = fetch_one(connection, "purge")
    return int(row["count"]) if row else 0


def purge_run_output() -> int:
    """Delete some of what was printed longer ago than the general retention; return how much."""
    before = Retention.parse(settings().retention).before(clock.now())
    return 0 if before is None else run_output.delete_before(before)
