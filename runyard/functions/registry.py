"""The functions of the loaded code, by name: their jobs, triggers and flow control.

`on_event` adds to it on import; `publish` writes it to the database, where the fan-out and the
claim read it.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import psycopg

from runyard.errors import InvalidOption
from runyard.functions.flow_control import MAX_BATCH_SIZE, Flow
from runyard.functions.retry import Retry
from runyard.functions.triggers import Trigger, matches
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all, fetch_one

_NAME = re.compile(r"[A-Za-z0-9_]+")
_REKEY_CHUNK = 5_000
_CATCH_UP_CHUNK = 20_000
# When the code server of a version of the code has been silent for so long, it is gone.
PUBLISHER_SILENT_SECONDS = 30.0
SCHEDULED = "runyard/function.scheduled"
INVOKED = "runyard/function.invoked"


@dataclass(frozen=True)
class Function:
    """A function: a job and the events that start it. Raises `InvalidOption` for bad options.

    A `remote` one is served by an application with an SDK of Inngest, and may have what that
    allows: no trigger at all, a trigger that another one covers, a throttle with a burst beyond its
    limit, a limit beside a singleton, and a limit of its own for a shared scope.
    """

    name: str
    job: str
    triggers: tuple[str | Trigger, ...]
    max_batch: int = 500
    retry: Retry = field(default_factory=Retry)
    flow: Flow = field(default_factory=Flow)
    scheduled: bool = False
    remote: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidOption(
                f"function {self.name!r}: give it a name of letters, digits and underscores"
            )
        if not self.triggers and not self.scheduled and not self.remote:
            raise InvalidOption(
                f"function {self.name}: give at least one event name, or cron=Cron(...)"
            )
        try:
            self._check_triggers()
        except InvalidOption as error:
            raise InvalidOption(f"function {self.name}: {error}") from None
        if not 1 <= self.max_batch <= MAX_BATCH_SIZE:
            raise InvalidOption(
                f"function {self.name}: max_batch={self.max_batch}: give 1 to {MAX_BATCH_SIZE}"
            )
        self.flow.check(self.name, remote=self.remote)

    def _check_triggers(self) -> None:
        """Raise `InvalidOption` for an invalid trigger, or a filter that has no effect."""
        for rule in self.rules:
            for other in self.rules:
                any_of_them = other.filter is None and matches(other.event, rule.event)
                if rule.filter is not None and any_of_them and not self.remote:
                    raise InvalidOption(
                        f"it starts on every {other.event}, so the filter of {rule.event} has no"
                        " effect: remove one of these triggers"
                    )

    @property
    def rules(self) -> list[Trigger]:
        """The triggers, each as a `Trigger`."""
        return [
            trigger if isinstance(trigger, Trigger) else Trigger(trigger)
            for trigger in self.triggers
        ]

    @property
    def largest(self) -> int:
        """How many invocations a run takes at most."""
        return self.flow.batch.max_size if self.flow.batch else self.max_batch

    @property
    def uses_lanes(self) -> bool:
        """Whether its flow control puts invocations into lanes."""
        return self.flow.uses_lanes

    @property
    def event(self) -> str:
        """The name of an event made for this function alone.

        It is the first trigger without a wildcard, so that the data has that event's type. A remote
        function that is invoked is always told so.
        """
        if self.remote:
            return INVOKED
        return next(
            (rule.event for rule in self.rules if not rule.wildcard),
            SCHEDULED if self.scheduled else INVOKED,
        )

    def started_by(self, event: str) -> bool:
        """Return whether an event of this name can start it, filters and conditions aside."""
        return event == self.event or any(matches(rule.event, event) for rule in self.rules)

    def to_row(self) -> dict[str, object]:
        """Return the function as it is registered in the database."""
        keys, _ = self.flow.keys()
        names = [rule.event for rule in self.rules if rule.unconditional]
        others = [rule for rule in self.rules if not rule.unconditional]
        return {
            "name": self.name,
            "job": self.job,
            "triggers": [str(rule) for rule in self.rules],
            "exact": names,
            "has_patterns": bool(others),
            "max_batch": self.largest,
            "priority": self.flow.priority if isinstance(self.flow.priority, int) else 0,
            "attempts": self.retry.attempts,
            "delays": self.retry.delays,
            "jitter": self.retry.jitter,
            "flow": self.flow.to_json(self.name),
            "key_paths": keys,
            "uses_lanes": self.flow.uses_lanes,
            "needs_admission": self.flow.needs_admission,
            "rules": [
                {
                    "event": rule.pattern,
                    "wildcard": rule.wildcard,
                    "filter": rule.filter,
                    "condition": rule.tree,
                }
                for rule in self.rules
            ],
        }


_functions: dict[str, Function] = {}
_elsewhere: Callable[[str], Function | None] | None = None


@contextmanager
def use(*functions: Function) -> Iterator[None]:
    """Replace the registry's content by these functions inside of a `with` block."""
    global _functions
    before, _functions = _functions, {function.name: function for function in functions}
    try:
        yield
    finally:
        _functions = before


def add(function: Function) -> None:
    """Add a function.

    Raises `InvalidOption` when there is another function of its name, or one with another limit for
    a shared scope.
    """
    known = _functions.get(function.name)
    if known is not None and known != function:
        raise InvalidOption(
            f"two functions are called {function.name}: give one of them another name, as in"
            f' name="{function.name}_again"'
        )
    shared = _shared_limits(function)
    for other in _functions.values() if shared else ():
        for scope, limit in _shared_limits(other).items():
            if shared.get(scope, limit) != limit:
                raise InvalidOption(
                    f"Concurrency(scope={scope!r}) has the limit {shared[scope]} in"
                    f" {function.name} and {limit} in {other.name}: a shared limit must be the same"
                    " everywhere"
                )
    _functions[function.name] = function


def _shared_limits(function: Function) -> dict[str, int]:
    """The limits by scope that functions of this code share with it."""
    if function.remote:
        return {}
    return {limit.scope: limit.limit for limit in function.flow.concurrency if limit.scope}


def functions() -> Sequence[Function]:
    """Return all functions, sorted by name."""
    return [_functions[name] for name in sorted(_functions)]


def find(name: str) -> Function | None:
    """Return the function of this name; None when there is none.

    It is one of the loaded code, or of what `find_also` adds.
    """
    known = _functions.get(name)
    return _elsewhere(name) if known is None and _elsewhere is not None else known


def invoking_event(name: str) -> str | None:
    """Return the name of the event that invokes a function; None when there is none of this name.

    Of a function that the loaded code does not have, such as one of an application, the database
    tells.
    """
    known = _functions.get(name)
    if known is not None:
        return known.event
    with database.connection() as connection:
        row = fetch_one(connection, "invoked_function", name=name)
    if row is None:
        return None
    names = [] if row["in_app"] else registered_events(row)
    return next((event for event in names if "*" not in event), INVOKED)


def find_also(elsewhere: Callable[[str], Function | None]) -> None:
    """Let `find` look up functions that no code here has, such as those of applications."""
    global _elsewhere
    _elsewhere = elsewhere


def retry_of(name: str) -> Retry:
    """When failed attempts of a published function are repeated, whatever the type of the error.

    Unlike `find` this works in a process that has not loaded the code. Of a function that was never
    published it is the default.
    """
    with database.connection() as connection:
        row = fetch_one(connection, "retry_of", function=name)
    return Retry() if row is None else Retry(row["attempts"], tuple(row["delays"]), row["jitter"])


def of_job(job: str) -> Function | None:
    """Return the first function that runs this job; None when no event starts it."""
    return next((function for function in functions() if function.job == job), None)


def registered_events(row: Row) -> list[str]:
    """Return the event names and patterns that start a function, given its row in the database."""
    return [str(trigger).partition(" if ")[0] for trigger in row["triggers"]]


def publish(*, beside: bool = False) -> bool:
    """Write the functions to the database; functions that the code no longer has are retired.

    A code location (RUNYARD_CODE in a RUNYARD_ENVIRONMENT) retires only functions of its own. A
    function that returns is started for the events that came meanwhile. When the keys of a
    function's flow control have changed, its open invocations get the new ones.

    `beside` says that another version of the code location may be running. If that one was deployed
    later than this one, nothing is written: returns False. Raises `InvalidOption` for a filter that
    this PostgreSQL rejects, and for a name that a function of an application has.
    """
    declared, location, digest = _publication()
    try:
        with database.transaction() as connection:
            fetch_all(connection, "lock_apps")
            names = [function.name for function in functions()]
            _check_names(connection, names)
            version = fetch_one(
                connection,
                "record_publication",
                location=location,
                digest=digest,
                beside=beside,
                silent=PUBLISHER_SILENT_SECONDS,
            )
            if version is None or not version["counts"]:
                return False
            fetch_all(connection, "register_functions", functions=declared, location=location)
            fetch_all(connection, "register_triggers", functions=declared)
            fetch_all(connection, "retire_functions", names=names, location=location)
    except psycopg.errors.SyntaxError as error:
        raise InvalidOption(
            "this PostgreSQL does not accept a filter as SQL/JSON path: "
            f"{error.diag.message_primary}"
        ) from None
    catch_up()
    rekey()
    return True


def stay_published() -> None:
    """Note that this version of the code runs; publish it when a newer one is gone.

    To be called more often than every `PUBLISHER_SILENT_SECONDS`.
    """
    _, location, digest = _publication()
    with database.connection() as connection:
        version = fetch_one(connection, "renew_publication", location=location, digest=digest)
    if version is None or not version["counts"]:
        publish(beside=True)


def _publication() -> tuple[str, str, str]:
    """The functions as JSON, their code location, and what identifies its version."""
    declared = json.dumps([function.to_row() for function in functions()])
    location = f"{settings().code} in {settings().environment}"
    return declared, location, sha256(declared.encode()).hexdigest()


def check_names(names: Sequence[str]) -> None:
    """Raise `InvalidOption` for a name of the code that a function of an application has."""
    with database.connection() as connection:
        _check_names(connection, names)


def _check_names(connection: Connection, names: Sequence[str]) -> None:
    taken = fetch_all(connection, "names_of_apps", names=list(names))
    if taken:
        first = taken[0]
        raise InvalidOption(
            f"two functions are called {first['name']}: this one, and {first['slug']} of the"
            f" application {first['app']}: give this one another name, or remove the application"
            f" with `runyard apps remove {first['app']}`"
        )


def catch_up() -> int:
    """Start functions that have returned for the events of their absence, each event once.

    This covers the last 24 hours. It continues for a minute or longer, until no transaction is left
    that began while a function was absent. Returns how many functions have returned.
    """
    with database.connection() as connection:
        restored = fetch_all(connection, "restored_functions")
        for row in restored:
            after: str | None = None
            while True:
                chunk = fetch_one(
                    connection, "catch_up", function=row["name"], after=after, limit=_CATCH_UP_CHUNK
                )
                if chunk is None or not chunk["last"]:
                    break
                after = chunk["last"]
    return len(restored)


def rekey() -> int:
    """Give open invocations with keys of a function's former flow control the present keys.

    A single pass after a deploy is not enough: a transaction that began before it may commit an
    event much later, with the keys of that time. Functions with limits check this before each
    claim; this function also covers those without. Returns how many, of the function with the most.
    """
    total = 0
    with database.connection() as connection:
        while row := fetch_one(connection, "rekey", limit=_REKEY_CHUNK):
            total += row["count"]
            if row["count"] < _REKEY_CHUNK:
                break
    return total
