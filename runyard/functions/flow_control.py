"""Flow control: what governs an invocation's way through the queue.

Each word is a frozen dataclass that checks itself; they are given to `on_event` and combine freely. `Flow` holds those of a function, refuses
combinations that contradict each other, and writes them as the JSON that the SQL of the claim reads.
Keys are paths into the event (`data.tenant_id`): a limit with a key holds for each value of it. A key that an event does not have, or that is null,
is no value: what would skip, merge or replace such an event (idempotency, rate limit, debounce, singleton) lets it pass, and what only makes it wait
(concurrency, throttle, batch) takes all those without the key for one group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runyard.errors import InvalidOption
from runyard.events import MAX_NAME
from runyard.syntax.durations import YEAR, Duration, seconds
from runyard.syntax.jsonpath import check_filter, parse_path

MAX_BATCH_SIZE = 5000
DAY = 86_400.0
WEEK = 7 * DAY
MAX_PRIORITY = 600
# How long a step may take where neither it nor its function says so: what Inngest gives one.
DEFAULT_STEP_TIMEOUT = 7_200.0
# What stands among the keys of an invocation for one that its event does not have (runyard.no_key_v1).
NO_KEY = "\x1d"


def _at_least_one(value: object, what: str, most: int = 1_000_000) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidOption(f"{what}={value!r}): give a whole number from 1 to {most}")


def _check_key(key: str | None, word: str) -> None:
    if key is not None:
        parse_path(key, f"{word}(key=...)")


@dataclass(frozen=True)
class Concurrency:
    """At most `limit` invocations at a time, over all workers; those that sleep or wait count for nothing.

    Parameters
    ----------
    limit
        How many, 1 or more.
    key
        A path into the event: the limit holds for each value of it.
    scope
        A name that several functions share: the limit then holds over all of them, and all must say the same one.
    """

    limit: int
    key: str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        _at_least_one(self.limit, "Concurrency(limit")
        _check_key(self.key, "Concurrency")
        if self.scope is not None and not 1 <= len(self.scope) <= 100:
            raise InvalidOption("Concurrency(scope=...): give a name of 1 to 100 characters")


@dataclass(frozen=True)
class Throttle:
    """At most `limit` invocations begin in a `period`, evenly spread; the rest waits its turn.

    `burst` (by default what comes on one second, at least 1) may begin at once after a quiet time, so that a window of a period
    sees `limit + burst - 1` at most. Retries and wakes begin nothing. This is the generic cell rate algorithm (ITU-T I.371).
    """

    limit: int
    period: Duration
    key: str | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        _at_least_one(self.limit, "Throttle(limit")
        seconds(self.period, "Throttle(period=...)", least=1, most=WEEK)
        if self.burst is not None:
            _at_least_one(self.burst, "Throttle(burst")
            if self.burst > self.limit:
                raise InvalidOption(
                    f"Throttle(burst={self.burst}): give no more than the limit, {self.limit}"
                )
        _check_key(self.key, "Throttle")

    def to_json(self, key: int | None) -> dict[str, Any]:
        """The rule as the claim reads it: seconds between two beginnings, and how many may come at once."""
        interval = seconds(self.period, "Throttle(period=...)") / self.limit
        return {
            "interval": interval,
            "burst": self.burst or max(1, min(self.limit, int(1 / interval))),
            "key": key,
        }


@dataclass(frozen=True)
class RateLimit:
    """At most `limit` events in any `period` are taken; those beyond it are skipped, and shown as skipped."""

    limit: int
    period: Duration
    key: str | None = None

    def __post_init__(self) -> None:
        _at_least_one(self.limit, "RateLimit(limit", most=10_000)
        seconds(self.period, "RateLimit(period=...)", least=1)
        _check_key(self.key, "RateLimit")


@dataclass(frozen=True)
class Idempotency:
    """Of events with the same value at `key` within `period` (24 h by default) only the first is run; the others are skipped."""

    key: str
    period: Duration = DAY

    def __post_init__(self) -> None:
        parse_path(self.key, "Idempotency(key=...)")
        seconds(self.period, "Idempotency(period=...)", least=1)


@dataclass(frozen=True)
class Debounce:
    """Of events that come within `period` of each other only the last is run, once it has been quiet for that long.

    `max_wait` bounds the wait from the first of them (a week by default).
    """

    period: Duration
    key: str | None = None
    max_wait: Duration | None = None

    def __post_init__(self) -> None:
        period = seconds(self.period, "Debounce(period=...)", least=1, most=WEEK)
        if (
            self.max_wait is not None
            and seconds(self.max_wait, "Debounce(max_wait=...)", most=YEAR) < period
        ):
            raise InvalidOption("Debounce(max_wait=...): give no less than the period")
        _check_key(self.key, "Debounce")

    def to_json(self, key: int | None) -> dict[str, Any]:
        """The rule as the gate reads it."""
        return {
            "period": seconds(self.period, ""),
            "longest": seconds(
                self.max_wait if self.max_wait is not None else max(WEEK, seconds(self.period, "")),
                "",
            ),
            "key": key,
        }


@dataclass(frozen=True)
class BatchEvents:
    """Events of a key are gathered: a run begins when `size` of them wait, or the oldest has waited for `wait`; it holds that key alone."""

    max_size: int = 100
    timeout: Duration = 60.0
    key: str | None = None

    def __post_init__(self) -> None:
        _at_least_one(self.max_size, "BatchEvents(size", most=MAX_BATCH_SIZE)
        seconds(self.timeout, "BatchEvents(timeout=...)", least=0.1, most=600)
        _check_key(self.key, "BatchEvents")


@dataclass(frozen=True)
class Priority:
    """A priority by the event: a number at a path (`data.level`) or given by an expression in SQL/JSON path (`$.data.level * 10`).

    It is kept within `low` and `high` (-600 to 600); an event without a number there has 0.
    """

    path: str
    min: int = -MAX_PRIORITY
    max: int = MAX_PRIORITY

    def __post_init__(self) -> None:
        if self.path.startswith("$"):
            check_filter(self.path, "Priority(path=...)")
        else:
            parse_path(self.path, "Priority(path=...)")
        if not -MAX_PRIORITY <= self.min <= self.max <= MAX_PRIORITY:
            raise InvalidOption(
                f"Priority(min={self.min}, max={self.max}): give bounds within -{MAX_PRIORITY} and {MAX_PRIORITY}"
            )

    def to_json(self) -> dict[str, Any]:
        """The rule as the fan-out reads it."""
        expression = (
            self.path
            if self.path.startswith("$")
            else "$" + "".join(f'."{part}"' for part in parse_path(self.path, ""))
        )
        return {"path": expression, "low": self.min, "high": self.max}


@dataclass(frozen=True)
class Singleton:
    """One invocation of a key at a time, from its event to its end.

    An event that comes meanwhile is skipped (`mode="skip"`), or cancels the one under way and takes its place (`mode="cancel"`).
    """

    mode: Literal["skip", "cancel"] = "skip"
    key: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("skip", "cancel"):
            raise InvalidOption(f"Singleton(mode={self.mode!r}): give 'skip' or 'cancel'")
        _check_key(self.key, "Singleton")


@dataclass(frozen=True)
class Timeouts:
    """What has not begun within `start` of its time, or not ended within `finish` of its beginning, is cancelled.

    A step that has not ended within `step` (2 hours by default) has failed; `timeout=` of a step goes
    before it.
    """

    start: Duration | None = None
    finish: Duration | None = None
    step: Duration | None = None

    def __post_init__(self) -> None:
        if self.start is None and self.finish is None and self.step is None:
            raise InvalidOption("Timeouts(): give start, finish, step or several of them")
        for name, value in (("start", self.start), ("finish", self.finish), ("step", self.step)):
            if value is not None:
                seconds(value, f"Timeouts({name}=...)", least=1)


@dataclass(frozen=True)
class CancelOn:
    """A later event that cancels the invocations it fits.

    Parameters
    ----------
    event
        Its name.
    match
        A path that must hold the same in both events (`data.order_id`), or several; or pairs of a path in the cancelling event and one in the
        function's own. None: every invocation of the function. An event without a value there, or with null, is cancelled by none.
    filter
        SQL/JSON path over the cancelling event.
    within
        For how long after its own event an invocation can be cancelled so; a year by default.
    """

    event: str
    match: str | Sequence[str | tuple[str, str]] | None = None
    filter: str | None = None
    timeout: Duration = YEAR

    def __post_init__(self) -> None:
        if not 1 <= len(self.event) <= MAX_NAME or "*" in self.event:
            raise InvalidOption(
                f"CancelOn(event={self.event!r}): give the name of one event, without a wildcard"
            )
        self.pairs()
        if self.filter is not None:
            check_filter(self.filter, "CancelOn(filter=...)")
        seconds(self.timeout, "CancelOn(timeout=...)", least=1)

    def pairs(self) -> list[tuple[list[str], list[str]]]:
        """Paths in the cancelling event, each with that in the function's own."""
        given = (
            []
            if self.match is None
            else [self.match]
            if isinstance(self.match, str)
            else list(self.match)
        )
        both = [(one, one) if isinstance(one, str) else one for one in given]
        return [
            (parse_path(theirs, "CancelOn(match=...)"), parse_path(own, "CancelOn(match=...)"))
            for theirs, own in both
        ]

    def to_json(self) -> dict[str, Any]:
        """The rule as the fan-out reads it."""
        pairs = self.pairs()
        return {
            "event": self.event,
            "shape": [theirs for theirs, _ in pairs],
            "own": [own for _, own in pairs],
            "filter": self.filter,
            "within": seconds(self.timeout, ""),
        }


@dataclass(frozen=True)
class Flow:
    """All flow control of a function."""

    concurrency: tuple[Concurrency, ...] = ()
    throttle: Throttle | None = None
    rate_limit: RateLimit | None = None
    idempotency: Idempotency | None = None
    debounce: Debounce | None = None
    batch: BatchEvents | None = None
    priority: int | Priority = 0
    singleton: Singleton | None = None
    timeouts: Timeouts | None = None
    cancel_on: tuple[CancelOn, ...] = ()

    def check(self, function: str) -> None:
        """Raise `InvalidOption` for what contradicts itself, with the function and the fields."""
        if isinstance(self.priority, int) and not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise InvalidOption(
                f"on_event(priority={self.priority}) for {function}: give -{MAX_PRIORITY} to {MAX_PRIORITY}; higher goes first"
            )
        contradictions = [
            ("batch", "singleton", "a singleton runs one event at a time, a batch many"),
            ("batch", "debounce", "a debounce keeps one event of many, a batch all of them"),
            (
                "batch",
                "priority",
                "a batch takes the events of its key in the order in which they came",
            ),
            (
                "batch",
                "throttle",
                "a throttle spreads beginnings, a batch gathers them; give the batch a size and a wait",
            ),
        ]
        for one, other, why in contradictions:
            if getattr(self, one) and getattr(self, other):
                raise InvalidOption(
                    f"on_event({one}=..., {other}=...) for {function} contradict each other: {why}; leave one of them out"
                )
        seen: set[tuple[str | None, str | None]] = set()
        for limit in self.concurrency:
            if (limit.key, limit.scope) in seen:
                raise InvalidOption(
                    f"on_event(concurrency=...) for {function}: two limits have the key {limit.key!r}; keep the lower one"
                )
            seen.add((limit.key, limit.scope))

    @property
    def step_timeout(self) -> float:
        """How long a step may take that says nothing of its own."""
        given = self.timeouts.step if self.timeouts is not None else None
        return DEFAULT_STEP_TIMEOUT if given is None else seconds(given, "")

    @property
    def gated(self) -> bool:
        """Whether arrivals are looked at before they queue."""
        return bool(self.rate_limit or self.idempotency or self.debounce)

    @property
    def laned(self) -> bool:
        """Whether invocations are claimed by lanes."""
        return bool(self.gated or self.concurrency or self.throttle or self.batch or self.singleton)

    def keys(self) -> tuple[list[list[str]], int]:
        """The paths that flow control goes by, and how many of them (the first ones) make the lane."""
        in_lane = [limit.key for limit in self.concurrency] + [
            word.key for word in (self.throttle, self.batch, self.singleton) if word is not None
        ]
        at_gate = [
            word.key
            for word in (self.idempotency, self.rate_limit, self.debounce)
            if word is not None
        ]
        lane = list(dict.fromkeys(key for key in in_lane if key is not None))
        return [
            parse_path(key, "key")
            for key in dict.fromkeys([*lane, *(key for key in at_gate if key is not None)])
        ], len(lane)

    def to_json(self, function: str) -> dict[str, Any]:
        """What the SQL of the fan-out and of the claim reads; a word that is not said is not there."""
        paths, lanes = self.keys()
        places = {".".join(found): place for place, found in enumerate(paths, 1)}

        def place(key: str | None) -> int | None:
            return None if key is None else places[".".join(parse_path(key, "key"))]

        written: dict[str, Any] = {
            "lanes": lanes,
            "concurrency": self._concurrency(function, place),
            "limits": self._limits(place),
        }
        if self.throttle:
            written["throttle"] = self.throttle.to_json(place(self.throttle.key))
        if self.debounce:
            written["debounce"] = self.debounce.to_json(place(self.debounce.key))
        if self.batch:
            written["batch"] = {"wait": seconds(self.batch.timeout, "")}
        if self.singleton:
            written["singleton"] = {"mode": self.singleton.mode, "key": place(self.singleton.key)}
        if isinstance(self.priority, Priority):
            written["priority"] = self.priority.to_json()
        if self.timeouts and self.timeouts.start is not None:
            written["start_within"] = seconds(self.timeouts.start, "")
        if self.timeouts and self.timeouts.finish is not None:
            written["finish_within"] = seconds(self.timeouts.finish, "")
        if self.cancel_on:
            written["cancel_on"] = [rule.to_json() for rule in self.cancel_on]
        # A chunk of arrivals must span less than every period of the gates.
        periods = [limit["period"] for limit in written["limits"]] + (
            [written["debounce"]["period"]] if self.debounce else []
        )
        return {**written, "span": min(periods, default=DAY)}

    def _concurrency(self, function: str, place: Any) -> list[dict[str, Any]]:
        limits = [
            {
                "scope": f"shared {limit.scope}" if limit.scope else f"{function} {position}",
                "limit": limit.limit,
                "key": place(limit.key),
            }
            for position, limit in enumerate(self.concurrency)
        ]
        if self.singleton:
            # The one that takes another's place waits until that one has left its batch.
            limits.append(
                {"scope": f"{function} singleton", "limit": 1, "key": place(self.singleton.key)}
            )
        return limits

    def _limits(self, place: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self.idempotency:
            period = seconds(self.idempotency.period, "")
            found.append(
                {
                    "gate": "idempotency",
                    "limit": 1,
                    "period": period,
                    "key": place(self.idempotency.key),
                    "says": "idempotency: an event with the same key came before",
                }
            )
        if self.rate_limit:
            period = seconds(self.rate_limit.period, "")
            says = f"rate limit: {self.rate_limit.limit} in {period:g} s were taken already"
            found.append(
                {
                    "gate": "rate_limit",
                    "limit": self.rate_limit.limit,
                    "period": period,
                    "key": place(self.rate_limit.key),
                    "says": says,
                }
            )
        return found
