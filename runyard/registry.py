"""The functions that the loaded code has: job, triggers and flow control, by name.

`on_event` adds to it at import; `publish` writes it to the database, where the fan-out trigger reads it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from runyard.errors import InvalidOption
from runyard.events import MAX_NAME
from runyard.flow import Retry
from runyard.store import database
from runyard.store.queries import run

LARGEST_BATCH = 5000
_NAME = re.compile(r"^[A-Za-z0-9_]+$")


@dataclass(frozen=True)
class Function:
    """A function: a job and the events that start it. Validates itself when made; raises `InvalidOption`."""

    name: str
    job: str
    triggers: tuple[str, ...]
    max_batch: int = 500
    retry: Retry = field(default_factory=Retry)
    priority: int = 0

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise InvalidOption(f"on_event(name={self.name!r}): give letters, digits and underscores")
        if not self.triggers or any(not 1 <= len(trigger) <= MAX_NAME for trigger in self.triggers):
            raise InvalidOption(f"on_event for {self.name}: give at least one event name of 1 to {MAX_NAME} characters")
        if not 1 <= self.max_batch <= LARGEST_BATCH:
            raise InvalidOption(f"on_event(max_batch={self.max_batch}) for {self.name}: give 1 to {LARGEST_BATCH}")
        if not -600 <= self.priority <= 600:
            raise InvalidOption(f"on_event(priority={self.priority}) for {self.name}: give -600 to 600; higher goes first")


_functions: dict[str, Function] = {}


def add(function: Function) -> None:
    """Add a function; a second one of its name with other options raises `InvalidOption`."""
    known = _functions.get(function.name)
    if known is not None and known != function:
        raise InvalidOption(f"two functions are called {function.name}: give one of them on_event(name=...)")
    _functions[function.name] = function


def functions() -> Sequence[Function]:
    """All functions, by name."""
    return [_functions[name] for name in sorted(_functions)]


def find(name: str) -> Function | None:
    """The function of this name, None when the loaded code has none."""
    return _functions.get(name)


def of_job(job: str) -> Function | None:
    """The first function that runs this job, None when no event starts it."""
    return next((function for function in functions() if function.job == job), None)


def publish() -> None:
    """Write the functions to the database; those that the code no longer has get no new invocations."""
    declared = [
        {
            "name": function.name, "job": function.job, "triggers": list(function.triggers), "max_batch": function.max_batch,
            "priority": function.priority, "attempts": function.retry.attempts,
        }
        for function in functions()
    ]  # fmt: skip
    with database.transaction() as connection:
        run(connection, "register_functions", functions=json.dumps(declared))
        run(connection, "retire_functions", names=[function.name for function in functions()])
