"""When functions next have something to claim."""

from dataclasses import dataclass

from runyard.engine.batch_claims import Claimable
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one


@dataclass(frozen=True)
class Due:
    """A function with anything queued, sleeping or waiting, as far as a claim needs to know it.

    Attributes
    ----------
    name, job, largest, uses_lanes
        As `registry.Function` has them.
    seconds
        How long until its next invocation may be claimed; 0 or less: now. None when that depends on
        an event, on the end of a run, or on somebody who resumes the function.
    """

    name: str
    job: str
    largest: int
    uses_lanes: bool
    seconds: float | None


def due_functions() -> list[Due]:
    """The functions that have anything to claim, now or later; also those the code no longer has.

    This agrees with `seconds_until_due` except that it also says whether something can be claimed
    from lanes right now, which that function's callers have just tried. A function whose first 50
    lanes have no room counts as due: never later than the truth. When a claim then finds nothing,
    ask `seconds_until_due`.
    """
    with database.connection() as connection:
        return [Due(**row) for row in fetch_all(connection, "due_functions")]


def seconds_until_due(function: Claimable) -> float | None:
    """Return the seconds until a function's next invocation may be claimed; negative: overdue.

    None when that depends on an event or on the end of a run.
    """
    query = "next_due_lanes" if function.uses_lanes else "next_due"
    with database.connection() as connection:
        row = fetch_one(connection, query, function=function.name)
    return None if row is None else row["seconds"]
