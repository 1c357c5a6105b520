"""When each function has something due."""

from runyard.engine.due import due_functions


def due_seconds() -> dict[str, float | None]:
    """In how many seconds each function has something due, by its name."""
    return {due.name: due.seconds for due in due_functions()}
