"""When each function next has something to claim: one query for all of them."""

from runyard.store import database
from runyard.store.queries import fetch_all


def due_functions() -> dict[str, float | None]:
    """Return the seconds until each function's next invocation may be claimed; 0 or less: now.

    It has every function with anything queued, sleeping or waiting, also those that the code no
    longer has. None when it depends on an event, on the end of a run, or on somebody who resumes
    the function.

    It agrees with `dispatch.seconds_until_due`, and also says whether something can be claimed from
    lanes at once, which the callers of that function have just tried. For a function whose first
    50 lanes have no room it says 0, which is never later than the truth: a claim then finds
    nothing, and `dispatch.seconds_until_due` tells how long to wait.
    """
    with database.connection() as connection:
        return {row["name"]: row["seconds"] for row in fetch_all(connection, "due_functions")}
