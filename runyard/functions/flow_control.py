"""Flow control: what governs an invocation's way through the queue.

Each rule is a frozen dataclass that validates itself. Rules are passed to `on_event`, and combine
freely. `Flow` holds the rules of a function, rejects contradictory combinations, and writes the
JSON that the SQL of the claim reads.

Keys are paths into the event (`data.tenant_id`) or expressions over it (`event.data.a + '-' +
event.data.b`): a rule with a key applies to each value of it separately. A missing or null key
counts as no value. Rules that would skip, merge or replace such an event (idempotency, rate limit,
debounce, singleton) let it pass; rules that only make it wait (concurrency, throttle, batch) treat
all events without the key as one group.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from runyard.errors import InvalidOption
from runyard.events import MAX_NAME
from runyard.functions.option_names import NamedOptions
from runyard.syntax.durations import YEAR, Duration, seconds
from runyard.syntax.event_conditions import split
from runyard.syntax.event_keys import (
    Key,
    event_expression,
    is_expression,
    parse_key,
    unless_false,
    unless_met,
)
from runyard.syntax.expressions import parse_expression
from runyard.syntax.jsonpath import check_filter, parse_path

MAX_BATCH_SIZE = 5000
DAY = 86_400.0
WEEK = 7 * DAY
MAX_PRIORITY = 600
# The timeout of a step, in seconds, when neither it nor its function sets one: as in Inngest.
DEFAULT_STEP_TIMEOUT = 7_200.0
# The position of a key among those of a function.
_Place = Callable[[Key | None], int | None]
# Stands for a key that the event does not have, among the keys of an invocation
# (runyard.no_key_v1).
NO_KEY = "\x1d"


def _check_count(value: object, option: str, most: int = 1_000_000) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidOption(f"{option}={value!r}): give a whole number from 1 to {most}")


def _check_key(key: str | None, rule: str) -> None:
    _key(key, f"{rule}(key=...)")


def _key(key: str | None, what: str = "key") -> Key | None:
    return None if key is None else parse_key(key, what)


@dataclass(frozen=True)
class Concurrency(NamedOptions):
    """At most `limit` invocations at a time over all workers, not counting suspended ones.

    Parameters
    ----------
    limit
        How many, 1 or more.
    key
        A path into the event, or an expression over it: the limit applies to each value of it.
    scope
        A name that several functions share: the limit then applies to all of them together, and
        must be the same in each.
    """

    limit: int
    key: str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        _check_count(self.limit, "Concurrency(limit")
        _check_key(self.key, "Concurrency")
        if self.scope is not None and not 1 <= len(self.scope) <= 100:
            raise InvalidOption("Concurrency(scope=...): give a name of 1 to 100 characters")


@dataclass(frozen=True)
class Throttle(NamedOptions):
    """At most `limit` invocations begin in a `period`, evenly spread; the others wait.

    This is the generic cell rate algorithm (ITU-T I.371). Retries and resumed invocations do not
    count.

    Parameters
    ----------
    limit, period
        How many may begin, and in which time.
    key
        A path into the event, or an expression over it: the limit applies to each value of it.
    burst
        How many may begin at once after a quiet time, so that up to `limit + burst - 1` begin
        within a period. Default: the share of one second, at least 1.
    """

    limit: int
    period: Duration
    key: str | None = None
    burst: int | None = None

    def __post_init__(self) -> None:
        _check_count(self.limit, "Throttle(limit")
        seconds(self.period, "Throttle(period=...)", least=1, most=WEEK)
        if self.burst is not None:
            _check_count(self.burst, "Throttle(burst")
        _check_key(self.key, "Throttle")

    def to_json(self, key: int | None) -> dict[str, Any]:
        """Return the rule as the claim reads it: the interval in seconds, and the burst."""
        interval = seconds(self.period, "Throttle(period=...)") / self.limit
        return {
            "interval": interval,
            "burst": self.burst or max(1, min(self.limit, int(1 / interval))),
            "key": key,
        }


@dataclass(frozen=True)
class RateLimit(NamedOptions):
    """At most `limit` events in any `period` are run; the invocations of others are skipped."""

    limit: int
    period: Duration
    key: str | None = None

    def __post_init__(self) -> None:
        _check_count(self.limit, "RateLimit(limit", most=10_000)
        seconds(self.period, "RateLimit(period=...)", least=1)
        _check_key(self.key, "RateLimit")


@dataclass(frozen=True)
class Idempotency(NamedOptions):
    """Of events with the same `key` within `period` (default: 24 hours) only the first is run.

    The invocations of the others are skipped.
    """

    key: str
    period: Duration = DAY

    def __post_init__(self) -> None:
        parse_key(self.key, "Idempotency(key=...)")
        seconds(self.period, "Idempotency(period=...)", least=1)


@dataclass(frozen=True)
class Debounce(NamedOptions):
    """Of events that come within `period` of each other only the last is run.

    It runs when no event has come for `period`, but no later than `max_wait` (default: a week)
    after the first of them.
    """

    period: Duration
    key: str | None = None
    max_wait: Duration | None = None

    def __post_init__(self) -> None:
        period = seconds(self.period, "Debounce(period=...)", least=1, most=WEEK)
        if self.max_wait is not None:
            max_wait = seconds(self.max_wait, "Debounce(max_wait=...)", most=YEAR)
            if max_wait < period:
                raise InvalidOption("Debounce(max_wait=...): give no less than the period")
        _check_key(self.key, "Debounce")

    def to_json(self, key: int | None) -> dict[str, Any]:
        """Return the rule as the SQL of the admission rules reads it."""
        period = seconds(self.period, "")
        max_wait = max(WEEK, period) if self.max_wait is None else seconds(self.max_wait, "")
        return {"period": period, "max_wait": max_wait, "key": key}


@dataclass(frozen=True)
class BatchEvents(NamedOptions):
    """Events are gathered into batches, one key each.

    A run begins when `max_size` events of a key are waiting, or the oldest has waited for
    `timeout`.

    Parameters
    ----------
    together
        Whether the events are one invocation, which is called once with all of them and ends for
        all of them. For functions of applications; elsewhere each event is an invocation of its
        own, and they share a run.
    condition
        With `together`: an expression over the event. An event that does not meet it is run alone,
        at once.
    """

    max_size: int = 100
    timeout: Duration = 60.0
    key: str | None = None
    together: bool = False
    condition: str | None = None

    def __post_init__(self) -> None:
        _check_count(self.max_size, "BatchEvents(max_size", most=MAX_BATCH_SIZE)
        seconds(self.timeout, "BatchEvents(timeout=...)", least=0.1, most=600)
        _check_key(self.key, "BatchEvents")
        if self.condition is not None:
            event_expression(self.condition, "BatchEvents(condition=...)")
            if not self.together:
                raise InvalidOption(
                    "BatchEvents(condition=...): this is for batches that are taken together"
                )

    @property
    def alone_key(self) -> Key | None:
        """The key that only events have which are run alone; None if there are none of these."""
        return None if self.condition is None else unless_met(self.condition)

    def to_json(self, alone: int | None) -> dict[str, Any]:
        """Return the rule as the fan-out and the claim read it."""
        rule: dict[str, Any] = {"timeout": seconds(self.timeout, "BatchEvents(timeout=...)")}
        return {**rule, "together": True, "alone": alone} if self.together else rule


@dataclass(frozen=True)
class Priority(NamedOptions):
    """A priority that depends on the event.

    Parameters
    ----------
    path
        A path to a number (`data.level`), an expression over the event (`event.data.paid ? 60 : 0`)
        or an SQL/JSON path expression (`$.data.level * 10`). An event without a number there has
        priority 0.
    min, max
        The bounds within which the priority is clamped, -600 to 600.
    """

    path: str
    min: int = -MAX_PRIORITY
    max: int = MAX_PRIORITY

    def __post_init__(self) -> None:
        if isinstance(self.path, str) and self.path.startswith("$"):
            check_filter(self.path, "Priority(path=...)")
        else:
            parse_key(self.path, "Priority(path=...)")
        if not -MAX_PRIORITY <= self.min <= self.max <= MAX_PRIORITY:
            raise InvalidOption(
                f"Priority(min={self.min}, max={self.max}): give bounds within -{MAX_PRIORITY} "
                f"and {MAX_PRIORITY}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the rule as the fan-out reads it."""
        bounds = {"path": self.path, "min": self.min, "max": self.max}
        if self.path.startswith("$"):
            return bounds
        key = parse_key(self.path, "")
        if is_expression(key):
            return {**bounds, "tree": key[1]}
        return {**bounds, "path": "$" + "".join(f'."{part}"' for part in key)}


@dataclass(frozen=True)
class Singleton(NamedOptions):
    """One invocation of a key at a time, from its event to its end.

    An event that comes meanwhile is skipped (`mode="skip"`), or cancels the open invocation and
    takes its place (`mode="cancel"`). An event whose key is false is run beside all others.
    """

    mode: Literal["skip", "cancel"] = "skip"
    key: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("skip", "cancel"):
            raise InvalidOption(f"Singleton(mode={self.mode!r}): give 'skip' or 'cancel'")
        _check_key(self.key, "Singleton")


@dataclass(frozen=True)
class Timeouts(NamedOptions):
    """How long an invocation may take.

    Parameters
    ----------
    start
        An invocation that has not begun within this time after it was due is cancelled.
    finish
        An invocation that has not ended within this time after it began is cancelled.
    step
        A step that has not ended within this time (default: 2 hours) has failed. A step's own
        `timeout=` takes precedence.
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
        limits = [seconds(limit, "") for limit in (self.finish, self.step) if limit is not None]
        if len(limits) == 2 and limits[1] > limits[0]:
            raise InvalidOption(
                f"Timeouts(finish={self.finish!r}, step={self.step!r}): a step cannot take"
                " longer than the whole invocation; give step no more than finish"
            )


@dataclass(frozen=True)
class CancelOn(NamedOptions):
    """A later event that cancels matching invocations.

    Parameters
    ----------
    event
        The name of the cancelling event.
    match
        A path, or several, whose value must be the same in both events (`data.order_id`); or pairs
        of a path in the cancelling event and a path in the function's own. None: every invocation
        of the function. A missing or null value matches nothing.
    filter
        SQL/JSON path over the cancelling event.
    condition
        An expression over the function's own event (`event`) and the cancelling one (`async`):
        `async.data.order == event.data.order && async.data.total > 100`.
    timeout
        For how long after its own event an invocation can be cancelled like this; a year by
        default.
    """

    event: str
    match: str | Sequence[str | tuple[str, str]] | None = None
    filter: str | None = None
    timeout: Duration = YEAR
    condition: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.event) <= MAX_NAME or "*" in self.event:
            raise InvalidOption(
                f"CancelOn(event={self.event!r}): give the name of an event, without a wildcard"
            )
        self.pairs()
        if self.filter is not None:
            check_filter(self.filter, "CancelOn(filter=...)")
        if self.condition is not None:
            parse_expression(self.condition, "CancelOn(condition=...)")
        seconds(self.timeout, "CancelOn(timeout=...)", least=1)

    def pairs(self) -> list[tuple[list[str], list[str]]]:
        """Return pairs of a path in the cancelling event and a path in the function's own."""
        if self.match is None:
            return []
        matches = [self.match] if isinstance(self.match, str) else self.match
        pairs = [(match, match) if isinstance(match, str) else match for match in matches]
        option = "CancelOn(match=...)"
        return [(parse_path(theirs, option), parse_path(own, option)) for theirs, own in pairs]

    def to_json(self) -> dict[str, Any]:
        """Return the rule as the fan-out reads it."""
        pairs = self.pairs()
        rule: dict[str, Any] = {
            "event": self.event,
            "match_paths": [theirs for theirs, _ in pairs],
            "own_paths": [own for _, own in pairs],
            "filter": self.filter,
            "timeout": seconds(self.timeout, ""),
        }
        if self.condition is not None:
            sought, rest = split(parse_expression(self.condition, ""))
            rule |= {"pairs": sought, "condition": rest}
        return rule


# What a batch cannot be combined with, and why.
_CONTRADICTS_BATCH = {
    "singleton": "a singleton runs one event at a time, a batch many",
    "debounce": "a debounce runs one event of many, a batch all of them",
    "priority": "a batch takes the events of its key in the order in which they came",
    "throttle": "a throttle spreads events out, a batch gathers them",
}


@dataclass(frozen=True)
class Flow:
    """All flow control rules of a function."""

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

    def check(self, function: str, *, remote: bool = False) -> None:
        """Raise `InvalidOption` for contradictory rules, with the function and the options.

        A `remote` function may have a throttle whose burst is larger than its limit, and a limit
        beside a singleton, as Inngest allows.
        """
        throttle = self.throttle
        if not remote and throttle is not None and (throttle.burst or 0) > throttle.limit:
            raise InvalidOption(
                f"Throttle(burst={throttle.burst}) for {function}: give no more than the limit, "
                f"{throttle.limit}"
            )
        fixed = self.priority if isinstance(self.priority, int) else 0
        if not -MAX_PRIORITY <= fixed <= MAX_PRIORITY:
            raise InvalidOption(
                f"function {function}: priority={fixed}: give -{MAX_PRIORITY} to "
                f"{MAX_PRIORITY}; higher runs first"
            )
        together = self.batch is not None and self.batch.together
        if together and not remote:
            raise InvalidOption(
                f"function {function}: batch=BatchEvents(together=True): only functions of"
                " applications take events together; a step of this one sees the events of its"
                " batch with `batch`"
            )
        for other, reason in _CONTRADICTS_BATCH.items():
            # A throttle spreads groups out, as it does single events.
            if self.batch and getattr(self, other) and not (together and other == "throttle"):
                raise InvalidOption(
                    f"function {function}: batch=... and {other}=... contradict each other: "
                    f"{reason}; remove one of them"
                )
        seen: set[tuple[str | None, str | None]] = set()
        for limit in self.concurrency:
            if (limit.key, limit.scope) in seen:
                raise InvalidOption(
                    f"function {function}: concurrency=...: two limits have the key "
                    f"{limit.key!r}; keep the lower one"
                )
            seen.add((limit.key, limit.scope))
        if not remote:
            self._check_singleton(function)
        self._check_order(function)

    def _check_singleton(self, function: str) -> None:
        """Raise `InvalidOption` for a limit that a singleton leaves without effect."""
        for limit in self.concurrency:
            if (
                self.singleton is not None
                and limit.scope is None
                and limit.limit > 1
                and _key(limit.key) == _key(self.singleton.key)
            ):
                raise InvalidOption(
                    f"function {function}: singleton=... and concurrency=... contradict each other:"
                    f" a singleton runs one at a time, the limit is {limit.limit}; remove one of"
                    " them"
                )

    def _check_order(self, function: str) -> None:
        """Raise `InvalidOption` for a rule that decides before another one comes to bear."""
        start = self.timeouts.start if self.timeouts is not None else None
        # The timeout of what is taken together counts from the end of the gathering.
        shares = self.batch is not None and not self.batch.together
        gathering = self.batch.timeout if self.batch is not None and shares else None
        if (
            start is not None
            and gathering is not None
            and seconds(start, "") <= seconds(gathering, "")
        ):
            raise InvalidOption(
                f"function {function}: batch=BatchEvents(timeout={gathering!r}) and"
                f" timeouts=Timeouts(start={start!r}) contradict each other: what waits for its"
                " batch is cancelled before the batch begins; give a longer start"
            )
        if (
            self.idempotency is not None
            and self.debounce is not None
            and _key(self.idempotency.key) == _key(self.debounce.key)
        ):
            raise InvalidOption(
                f"function {function}: idempotency=... and debounce=... contradict each other: of"
                " the events with a key the first is run by idempotency, the last by debounce;"
                " remove one of them, or give them different keys"
            )

    @property
    def step_timeout(self) -> float:
        """The timeout of a step that sets none of its own, in seconds."""
        timeout = self.timeouts.step if self.timeouts is not None else None
        return DEFAULT_STEP_TIMEOUT if timeout is None else seconds(timeout, "")

    @property
    def needs_admission(self) -> bool:
        """Whether admission rules decide about events before they are queued."""
        return bool(self.rate_limit or self.idempotency or self.debounce)

    @property
    def uses_lanes(self) -> bool:
        """Whether invocations are claimed by lanes, one for each combination of keys."""
        return bool(
            self.needs_admission
            or self.concurrency
            or self.throttle
            or self.batch
            or self.singleton
        )

    def keys(self) -> tuple[list[Key], int]:
        """Return all keys as they are stored, and how many of them (the first) make up the lane."""
        in_lane = [
            *(_key(limit.key) for limit in self.concurrency),
            *_keys(self.throttle, self.batch),
            self.batch.alone_key if self.batch is not None else None,
            self._singleton_key,
        ]
        at_admission = _keys(self.idempotency, self.rate_limit, self.debounce)
        lane = _distinct(in_lane)
        return _distinct([*in_lane, *at_admission]), len(lane)

    @property
    def _singleton_key(self) -> Key | None:
        key = None if self.singleton is None else _key(self.singleton.key)
        return None if key is None else unless_false(key)

    def to_json(self, function: str) -> dict[str, Any]:
        """Return what the SQL of the fan-out and of the claim reads; absent rules are left out.

        Keys are written as their position among the function's keys, from 1.
        """
        keys, lanes = self.keys()

        def place(key: Key | None) -> int | None:
            return None if key is None else keys.index(key) + 1

        rules: dict[str, Any] = {
            "lane_keys": lanes,
            "concurrency": self._concurrency(function, place),
            "limits": self._limits(place),
        }
        if self.throttle:
            rules["throttle"] = self.throttle.to_json(place(_key(self.throttle.key)))
        if self.debounce:
            rules["debounce"] = self.debounce.to_json(place(_key(self.debounce.key)))
        if self.batch:
            rules["batch"] = self.batch.to_json(place(self.batch.alone_key))
        if self.singleton:
            rules["singleton"] = {"mode": self.singleton.mode, "key": place(self._singleton_key)}
        if isinstance(self.priority, Priority):
            rules["priority"] = self.priority.to_json()
        if self.timeouts and self.timeouts.start is not None:
            rules["start_timeout"] = seconds(self.timeouts.start, "")
        if self.timeouts and self.timeouts.finish is not None:
            rules["finish_timeout"] = seconds(self.timeouts.finish, "")
        if self.cancel_on:
            rules["cancel_on"] = [rule.to_json() for rule in self.cancel_on]
        # The events of a chunk must be closer together than every period of the admission rules.
        periods = [limit["period"] for limit in rules["limits"]]
        if self.debounce:
            periods.append(rules["debounce"]["period"])
        return {**rules, "shortest_period": min(periods, default=DAY)}

    def _concurrency(self, function: str, place: _Place) -> list[dict[str, Any]]:
        limits = [
            {
                "scope": f"shared {limit.scope}" if limit.scope else f"{function} {position}",
                "limit": limit.limit,
                "key": place(_key(limit.key)),
            }
            for position, limit in enumerate(self.concurrency)
        ]
        if self.singleton:
            # An invocation that replaces another waits until that one has left its batch.
            limits.append(
                {"scope": f"{function} singleton", "limit": 1, "key": place(self._singleton_key)}
            )
        return limits

    def _limits(self, place: _Place) -> list[dict[str, Any]]:
        limits: list[dict[str, Any]] = []
        if self.idempotency:
            limits.append(
                {
                    "kind": "idempotency",
                    "limit": 1,
                    "period": seconds(self.idempotency.period, ""),
                    "key": place(_key(self.idempotency.key)),
                    "reason": "idempotency: an event with the same key came before",
                }
            )
        if self.rate_limit:
            limit, period = self.rate_limit.limit, seconds(self.rate_limit.period, "")
            limits.append(
                {
                    "kind": "rate_limit",
                    "limit": limit,
                    "period": period,
                    "key": place(_key(self.rate_limit.key)),
                    "reason": f"rate limit: more than {limit} in {period:g} s",
                }
            )
        return limits


def _keys(*rules: Any) -> list[Key | None]:
    return [_key(rule.key) for rule in rules if rule is not None]


def _distinct(keys: Sequence[Key | None]) -> list[Key]:
    distinct: list[Key] = []
    for key in keys:
        if key is not None and key not in distinct:
            distinct.append(key)
    return distinct
