"""When the next invocation of each function may be claimed."""

from dataclasses import dataclass

from runyard.engine import dispatch
from runyard.store import database


@dataclass(frozen=True)
class Due:
    """A function that has something to claim, now or later."""

    name: str
    job: str
    largest: int
    uses_lanes: bool
    seconds: float


def due_functions() -> list[Due]:
    """The functions whose next due time is known."""
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT name, job, max_batch, uses_lanes FROM runyard.functions WHERE name IN ("
            "SELECT function FROM runyard.invocations WHERE status IN ('queued','sleeping','waiting'))"
        ).fetchall()
    result = []
    for r in rows:
        due = Due(str(r["name"]), str(r["job"]), int(r["max_batch"]), bool(r["uses_lanes"]), 0.0)
        s = dispatch.seconds_until_due(due)
        if s is not None:
            result.append(Due(due.name, due.job, due.largest, due.uses_lanes, s))
    return result
