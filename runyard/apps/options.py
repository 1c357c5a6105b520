"""The options of a function as Inngest's SDKs register them, as triggers and flow control here.

What cannot be done is refused with the reason; what is done a little otherwise is said in a
warning.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runyard.apps.crontab import parse_cron
from runyard.apps.fields import Fields, InvalidField
from runyard.functions.flow_control import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Debounce,
    Flow,
    Idempotency,
    Priority,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.retry import MAX_ATTEMPTS, Retry
from runyard.functions.triggers import Cron, Trigger
from runyard.syntax.durations import YEAR, seconds
from runyard.syntax.expressions import Tree

Warn = Callable[[str], None]
_DEFAULT_RETRIES = 4
_MOST_JITTER = 300.0


@dataclass(frozen=True)
class Schedule:
    """A cron trigger.

    Attributes
    ----------
    text
        As the application wrote it.
    cron
        When it starts the function.
    jitter
        Up to how many seconds later, at random.
    """

    text: str
    cron: Cron
    jitter: float = 0.0


def schedules_of(function: Fields) -> tuple[Schedule, ...]:
    """Return the cron triggers of a function; raises `InvalidField`."""
    return tuple(
        _schedule(trigger) for trigger in function.objects("triggers") if trigger.value("cron")
    )


def triggers_of(function: Fields) -> tuple[Trigger, ...]:
    """Return the events that start a function; raises `InvalidField`."""
    return tuple(
        _trigger(trigger) for trigger in function.objects("triggers") if not trigger.value("cron")
    )


def retry_of(function: Fields, warn: Warn) -> Retry:
    """Return when failed attempts of a function are repeated; raises `InvalidField`."""
    attempts = _retries(function) + 1
    if attempts > MAX_ATTEMPTS:
        warn(f"it is retried {MAX_ATTEMPTS - 1} times at most, not {attempts - 1:,} times")
    return Retry(attempts=min(attempts, MAX_ATTEMPTS))


def flow_of(function: Fields) -> Flow:
    """Return a function's flow control; raises `InvalidField`."""
    idempotency = _idempotency(function)
    flow = Flow(
        concurrency=_concurrency(function),
        throttle=_throttle(function),
        rate_limit=None if idempotency else _rate_limit(function),
        idempotency=idempotency,
        debounce=_debounce(function),
        batch=_batch(function),
        priority=_priority(function),
        singleton=_singleton(function),
        timeouts=_timeouts(function),
        cancel_on=tuple(_cancel_on(rule) for rule in function.objects("cancel")),
    )
    for option, rule in (
        ("cancel", flow.cancel_on),
        ("debounce", flow.debounce),
        ("priority", flow.priority),
        ("singleton", flow.singleton),
    ):
        if flow.batch and rule:
            raise InvalidField(
                f"{function.at(option)}: a function with batchEvents cannot have this too; remove"
                " one of them"
            )
    return flow


def _trigger(trigger: Fields) -> Trigger:
    event, expression = trigger.needed_text("event"), trigger.expression("expression")
    with trigger.option("event"):
        if expression is None:
            return Trigger(event)
        text, tree = expression
        filter_ = _as_filter(tree)
        return Trigger(event, condition=text) if filter_ is None else Trigger(event, filter_)


def _as_filter(tree: Tree) -> str | None:
    """Return `event.a.b == "text"` as SQL/JSON path, which costs much less than an expression.

    Every failure handler has such a condition on the one event name that all of them share.
    """
    if tree[0] != "==" or tree[1][0] != "path" or tree[2][0] != "lit":
        return None
    path, value = tree[1][1], tree[2][1]
    simple = [*path[1:], value]
    if path[0] != "event" or not all(isinstance(each, str) and _is_plain(each) for each in simple):
        return None
    return "strict $" + "".join(f'."{part}"' for part in path[1:]) + f' == "{value}"'


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and not set(text) & {'"', "\\"}


def _schedule(trigger: Fields) -> Schedule:
    text = trigger.needed_text("cron", 200)
    with trigger.option("cron"):
        cron = parse_cron(text)
    jitter = trigger.text("jitter")
    with trigger.option("jitter"):
        return Schedule(text, cron, 0.0 if jitter is None else _jitter(jitter))


def _jitter(text: str) -> float:
    return seconds(text, "the jitter", most=_MOST_JITTER)


def _retries(function: Fields) -> int:
    steps = function.value("steps")
    first = next(iter(steps.values()), None) if isinstance(steps, dict) else None
    step = Fields(first, function.at("steps")) if first is not None else None
    rule = step.object("retries") if step is not None else None
    count = rule.number("attempts") if rule is not None else None
    if count is None and isinstance(function.value("retries"), int):
        count = function.number("retries")
    if count is not None and count < 0:
        raise InvalidField(f"{function.at('retries')}: give 0 or more, not {count}")
    return _DEFAULT_RETRIES if count is None else count


def _concurrency(function: Fields) -> tuple[Concurrency, ...]:
    limits: dict[tuple[str | None, str | None], Concurrency] = {}
    for rule in _concurrency_rules(function):
        count = rule.number("limit")
        if not count:
            continue  # 0 is no limit
        with rule.option():
            limit = _limit(rule, count)
        known = limits.get((limit.key, limit.scope))
        if known is None or known.limit > limit.limit:
            limits[limit.key, limit.scope] = limit
    return tuple(limits.values())


def _concurrency_rules(function: Fields) -> Sequence[Fields]:
    raw = function.value("concurrency")
    place = function.at("concurrency")
    each: list[Any]
    if isinstance(raw, dict) and {"fn", "step"} & {str(name).lower() for name in raw}:
        both = Fields(raw, place)
        each = [*_listed(both.value("fn")), *_listed(both.value("step"))]
    else:
        each = _listed(raw)
    return [
        Fields({"limit": rule} if isinstance(rule, int | float) else rule, f"{place}[{number}]")
        for number, rule in enumerate(each)
    ]


def _listed(raw: Any) -> list[Any]:
    if raw is None:
        return []
    return raw if isinstance(raw, list) else [raw]


def _limit(rule: Fields, count: int) -> Concurrency:
    scope = (rule.text("scope") or "fn").lower()
    if scope not in ("fn", "env", "account"):
        raise InvalidField(f"{rule.at('scope')}: give fn, env or account, not {scope[:50]!r}")
    key = _key(rule)
    if scope == "fn":
        return Concurrency(count, key)
    # What the key says is what functions share.
    shared = f"{scope} {rule.text('key') or ''}".strip()
    if len(shared) > 100:
        raise InvalidField(f"{rule.at('key')}: give no more than 90 characters in this scope")
    return Concurrency(count, key, shared)


def _throttle(function: Fields) -> Throttle | None:
    rule = function.object("throttle")
    if rule is None:
        return None
    limit, period = rule.needed_number("limit"), rule.needed_text("period")
    with rule.option():
        return Throttle(limit, period, _key(rule), rule.number("burst") or 1)


def _rate_limit(function: Fields) -> RateLimit | None:
    rule = function.object("rateLimit")
    if rule is None:
        return None
    with rule.option():
        return RateLimit(rule.needed_number("limit"), rule.needed_text("period"), _key(rule))


def _idempotency(function: Fields) -> Idempotency | None:
    if function.text("idempotency") is None:
        return None
    with function.option("idempotency"):
        key = _key(function, "idempotency")
        if key is None:
            raise InvalidField(
                f"{function.at('idempotency')}: this is the same for all events; name a part of the"
                " event, as in event.data.id"
            )
        return Idempotency(key)


def _debounce(function: Fields) -> Debounce | None:
    rule = function.object("debounce")
    if rule is None:
        return None
    period, longest = rule.needed_text("period"), rule.text("timeout")
    with rule.option():
        if longest is None:
            return Debounce(period, _key(rule))
        most = max(seconds(longest, "timeout"), seconds(period, "period"))
        return Debounce(period, _key(rule), most)


def _batch(function: Fields) -> BatchEvents | None:
    rule = function.object("batchEvents")
    if rule is None:
        return None
    condition, size = rule.expression("if"), rule.needed_number("maxSize")
    with rule.option():
        return BatchEvents(
            size,
            rule.text("timeout") or 60.0,
            _key(rule),
            together=True,
            condition=None if condition is None else condition[0],
        )


def _priority(function: Fields) -> int | Priority:
    rule = function.object("priority")
    expression = rule.expression("run") if rule is not None else None
    if rule is None or expression is None:
        return 0
    text, tree = expression
    negative = tree[0] == "neg"
    if (value := _literal(tree[1] if negative else tree)) is not None:
        if not isinstance(value, int):
            raise InvalidField(f"{rule.at('run')}: give a whole number or an expression")
        return max(-600, min(600, -value if negative else value))
    with rule.option("run"):
        return Priority(_path(tree) or text)


def _literal(tree: Tree) -> Any:
    return tree[1] if tree[0] == "lit" else None


def _singleton(function: Fields) -> Singleton | None:
    rule = function.object("singleton")
    if rule is None:
        return None
    mode = (rule.text("mode") or "skip").lower()
    with rule.option():
        return Singleton("cancel" if mode == "cancel" else _skip(mode, rule), _key(rule))


def _skip(mode: str, rule: Fields) -> Any:
    if mode != "skip":
        raise InvalidField(f"{rule.at('mode')}: give skip or cancel, not {mode[:50]!r}")
    return mode


def _timeouts(function: Fields) -> Timeouts | None:
    rule = function.object("timeouts")
    start = rule.text("start") if rule is not None else None
    finish = rule.text("finish") if rule is not None else None
    if rule is None or (start is None and finish is None):
        return None
    with rule.option():
        return Timeouts(start=start, finish=finish)


def _cancel_on(rule: Fields) -> CancelOn:
    event, condition = rule.needed_text("event"), rule.expression("if")
    timeout = rule.text("timeout") or YEAR
    with rule.option():
        if condition is None:
            return CancelOn(event, timeout=timeout)
        return CancelOn(event, condition=condition[0], timeout=timeout)


def _key(rule: Fields, name: str = "key") -> str | None:
    """Return a key: a path where it is one, else the expression; None if it is always the same."""
    expression = rule.expression(name)
    if expression is None:
        return None
    text, tree = expression
    return None if tree[0] == "lit" else _path(tree) or text


def _path(tree: Tree) -> str | None:
    """Return `event.data.a` as the path `data.a`; None for what is no path of plain names."""
    if tree[0] != "path" or tree[1][0] != "event" or len(tree[1]) < 2:
        return None
    names = tree[1][1:]
    return ".".join(names) if all(name.isidentifier() for name in names) else None
