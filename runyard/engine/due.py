"""When each function next has something to claim: one query for all of them."""

from dataclasses import dataclass

from runyard.store import database
from runyard.store.queries import fetch_all


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

    This agrees with `dispatch.seconds_until_due` except that it also says whether something can be
    claimed from lanes right now, which that function's callers have just tried. Of a function with
    more than 50 lanes, the first 50 of them without room, it says 0: never later than the truth. A
    claim that finds nothing then is to be followed by `dispatch.seconds_until_due`.
    """
    with database.connection() as connection:
        return [Due(**row) for row in fetch_all(connection, "due_functions")]
