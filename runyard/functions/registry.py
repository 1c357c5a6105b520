"""The functions that the loaded code has: job, triggers and flow control, by name.

`on_event` adds to it at import; `publish` writes it to the database, where the fan-out and the claim read it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import psycopg

from runyard.errors import InvalidOption
from runyard.functions.flow_control import MAX_BATCH_SIZE, Flow
from runyard.functions.retry import Retry
from runyard.functions.triggers import Trigger, matches
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_all, fetch_one

_NAME = re.compile(r"[A-Za-z0-9_]+")
_MOST_REKEYED = 5_000
_MOST_LOOKED_AT = 20_000
SCHEDULED = "runyard/function.scheduled"
INVOKED = "runyard/function.invoked"


@dataclass(frozen=True)
class Function:
    """A function: a job and the events that start it. Validates itself when made; raises `InvalidOption`."""

    name: str
    job: str
    triggers: tuple[str | Trigger, ...]
    max_batch: int = 500
    retry: Retry = field(default_factory=Retry)
    flow: Flow = field(default_factory=Flow)
    scheduled: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidOption(
                f"on_event(name={self.name!r}): give letters, digits and underscores"
            )
        if not self.triggers and not self.scheduled:
            raise InvalidOption(
                f"on_event for {self.name}: give at least one event name, or cron=Cron(...)"
            )
        try:
            _ = self.rules
        except InvalidOption as error:
            raise InvalidOption(f"on_event for {self.name}: {error}") from None
        if not 1 <= self.max_batch <= MAX_BATCH_SIZE:
            raise InvalidOption(
                f"on_event(max_batch={self.max_batch}) for {self.name}: give 1 to {MAX_BATCH_SIZE}"
            )
        self.flow.check(self.name)

    @property
    def rules(self) -> list[Trigger]:
        """The triggers, each as a `Trigger`."""
        return [given if isinstance(given, Trigger) else Trigger(given) for given in self.triggers]

    @property
    def largest(self) -> int:
        """The most invocations that one run takes."""
        return self.flow.batch.max_size if self.flow.batch else self.max_batch

    @property
    def event(self) -> str:
        """The name of an event made for this function alone: its first trigger, so that the data has that type."""
        return next(
            (rule.event for rule in self.rules if not rule.wildcard),
            SCHEDULED if self.scheduled else INVOKED,
        )

    def started_by(self, event: str) -> bool:
        """Whether an event of this name can start it, filters aside."""
        return event == self.event or any(matches(rule.event, event) for rule in self.rules)

    def to_row(self) -> dict[str, object]:
        """The function as it is registered."""
        paths, _ = self.flow.keys()
        plain = [rule.event for rule in self.rules if not rule.wildcard and rule.filter is None]
        others = [rule for rule in self.rules if rule.wildcard or rule.filter is not None]
        return {
            "name": self.name,
            "job": self.job,
            "triggers": [str(rule) for rule in self.rules],
            "exact": plain,
            "patterned": bool(others),
            "max_batch": self.largest,
            "priority": self.flow.priority if isinstance(self.flow.priority, int) else 0,
            "attempts": self.retry.attempts,
            "flow": self.flow.to_json(self.name),
            "key_paths": paths,
            "laned": self.flow.laned,
            "gated": self.flow.gated,
            "rules": [
                {"event": rule.pattern, "wildcard": rule.wildcard, "filter": rule.filter}
                for rule in self.rules
            ],
        }


_functions: dict[str, Function] = {}


def add(function: Function) -> None:
    """Add a function; a second one of its name with other options, or another limit of a shared scope, raises `InvalidOption`."""
    known = _functions.get(function.name)
    if known is not None and known != function:
        raise InvalidOption(
            f"two functions are called {function.name}: give one of them on_event(name=...)"
        )
    for other in _functions.values():
        for theirs in other.flow.concurrency:
            for ours in function.flow.concurrency:
                if (
                    ours.scope is not None
                    and ours.scope == theirs.scope
                    and ours.limit != theirs.limit
                ):
                    raise InvalidOption(
                        f"Concurrency(scope={ours.scope!r}) has the limit {ours.limit} in {function.name} and {theirs.limit} in {other.name}:"
                        " a shared limit must be the same everywhere"
                    )
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


def registered_events(row: Row) -> list[str]:
    """The event names and patterns that start a function, of its row in the database."""
    return [str(trigger).partition(" if ")[0] for trigger in row["triggers"]]


def publish() -> None:
    """Write the functions to the database; those that this code location no longer has get no new invocations.

    A code location (RUNYARD_CODE in a RUNYARD_ENVIRONMENT) ends functions of its own alone, and an older version of it that runs again ends none.
    A function that comes back is started for what came meanwhile. Where the keys of a function's flow control have changed, its open invocations
    get the new ones. Raises `InvalidOption` for a filter that this PostgreSQL does not take.
    """
    declared = json.dumps([function.to_row() for function in functions()])
    location = f"{settings().code} in {settings().environment}"
    try:
        with database.transaction() as connection:
            fetch_all(connection, "register_functions", functions=declared, location=location)
            fetch_all(connection, "register_triggers", functions=declared)
            version = fetch_one(
                connection,
                "publication",
                location=location,
                digest=sha256(declared.encode()).hexdigest(),
            )
            if version is not None and version["newest"]:
                fetch_all(
                    connection,
                    "retire_functions",
                    names=[function.name for function in functions()],
                    location=location,
                )
    except psycopg.errors.SyntaxError as error:
        raise InvalidOption(
            f"a filter is not what this PostgreSQL takes for SQL/JSON path: {error.diag.message_primary}"
        ) from None
    catch_up()
    rekey()


def catch_up() -> None:
    """Start the functions that were away and are there again for the events that came meanwhile, of the last 24 hours, each once.

    It goes on for a minute and longer, until no transaction is left that saw a function away.
    """
    with database.connection() as connection:
        for row in fetch_all(connection, "returned"):
            after: str | None = None
            while (
                found := fetch_one(
                    connection, "catch_up", function=row["name"], after=after, limit=_MOST_LOOKED_AT
                )
            ) and found["last"]:
                after = found["last"]


def rekey() -> None:
    """Give what waits with the keys of a former flow control those of the present one.

    It is not done with a deploy: a transaction that began before it may commit an event long after, with the keys that it saw. Functions with
    limits look before each claim; this looks at those without limits too.
    """
    with database.connection() as connection:
        while (row := fetch_one(connection, "rekey", limit=_MOST_REKEYED)) and row[
            "count"
        ] == _MOST_REKEYED:
            pass
