"""Controlling functions and their invocations from Python.

The command line and the HTTP API offer the same. `bulk` offers more: counting a selection first,
and resuming an action that was stopped.
"""

from runyard.engine.bulk import Action, Selection, perform
from runyard.errors import RunyardError
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one


def replay(selection: Selection, *, keep_steps: bool = False) -> int:
    """Run the events of finished invocations again, each as a new invocation.

    Parameters
    ----------
    selection
        Which invocations. Unless it names statuses, events, invocations or `since`, only those
        that failed or were cancelled.
    keep_steps
        Whether completed steps keep their results and are not re-run. By default every step runs.

    Returns
    -------
    How many invocations were replayed.

    Raises
    ------
    InvalidOption
        The selection names a status that cannot be replayed, or a function that does not exist.
    """
    return _perform(selection, "replay", keep_steps=keep_steps)


def cancel(selection: Selection) -> int:
    """Cancel open invocations; return how many.

    What is queued, sleeps or waits ends at once; a running invocation leaves its run at the next
    step, and a step that is still busy 5 seconds later is ended with its process.

    Raises `InvalidOption` for a selection that names a finished status, or a function that does
    not exist.
    """
    return _perform(selection, "cancel")


def run_now(*invocations: int) -> list[int]:
    """Make invocations due now which sleep or are queued for later; return the ids of these.

    Flow control and pauses still apply. Invocations that wait for no time, or do not exist, are
    left as they are.
    """
    with database.connection() as connection:
        rows = fetch_all(connection, "run_invocations_now", invocations=list(invocations))
    return [row["id"] for row in rows]


def pause(function: str) -> None:
    """Hold back a function's invocations until it is resumed; events are still accepted.

    Runs under way finish. Raises `RunyardError` when there is no such function.
    """
    _set_paused(function, True)


def resume(function: str) -> None:
    """Resume a paused function; raises `RunyardError` when there is no such function."""
    _set_paused(function, False)


def set_paused(function: str, paused: bool) -> bool:
    """Pause or resume a function; return whether there is such a function."""
    with database.connection() as connection:
        return fetch_one(connection, "pause", function=function, paused=paused) is not None


def _perform(selection: Selection, action: Action, *, keep_steps: bool = False) -> int:
    done = 0
    for progress in perform(selection, action, keep_steps=keep_steps):
        done = progress.done
    return done


def _set_paused(function: str, paused: bool) -> None:
    if not set_paused(function, paused):
        raise RunyardError(f"there is no function {function}; `runyard functions` lists them")
