"""When each function next has something to claim: one query for all of them."""

from runyard.store import database
from runyard.store.queries import fetch_all


def due_functions() -> dict[str, float | None]:
    """Return the seconds until each function's next invocation may be claimed; 0 or less: now.

    It has every function with anything queued, sleeping or waiting, also those that the code no
    longer has. None when it depends on an event, on the end of a run, or on somebody who resumes
    the function.

    It agrees with `dispatch.seconds_until_due` except that it also says whether something can be
    claimed from lanes right now, which that function's callers have just tried. Of a function with
    more than 50 lanes, the first 50 of them without room, it says 0: never later than the truth. A
    claim that finds nothing then is to be followed by `dispatch.seconds_until_due`.
    """
    with database.connection() as connection:
        return {row["name"]: row["seconds"] for row in fetch_all(connection, "due_functions")}
