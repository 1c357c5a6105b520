"""The paths of pages: those of the dev page, and runs in the Dagster UI."""

from urllib.parse import quote


def to_event(event_id: str) -> str:
    """The path of an event's page."""
    return f"/dev/events/{quote(event_id, safe='')}"


def to_invocation(invocation: int) -> str:
    """The path of an invocation's page."""
    return f"/dev/invocations/{invocation}"


def to_function(name: str) -> str:
    """The path of a function's page."""
    return f"/dev/functions/{quote(name, safe='')}"


def to_run(run_id: str) -> str:
    """The path of a run in the Dagster UI."""
    return f"/runs/{quote(run_id, safe='')}"
