"""Wrong options are rejected when the code loads, with the function and the field."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dagster import job

from runyard import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Cron,
    Debounce,
    Idempotency,
    InvalidOption,
    NonRetriable,
    Priority,
    RateLimit,
    Retry,
    Singleton,
    Throttle,
    Timeouts,
    Trigger,
    clock,
    on_event,
    receive,
    settle,
)
from runyard.functions import registry
from runyard.functions.flow_control import Flow
from runyard.functions.registry import Function
from runyard.syntax.durations import seconds
from runyard.syntax.times import parse_time


@job
def some_job() -> None:
    settle(receive())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Retry(atempts=3), "Retry has no option atempts=: did you mean attempts=?"),  # type: ignore[call-arg]
        (
            lambda: Throttle(1, "1m", every="1s"),  # type: ignore[call-arg]
            "Throttle has no option every=: there are limit, period, key, burst",
        ),
        (lambda: Cron("* * * * *", timezon="UTC"), "Cron has no option timezon=: did you mean"),  # type: ignore[call-arg]
        (lambda: Concurrency(0), "Concurrency(limit=0)"),
        (
            lambda: Concurrency(1, key="tenant id"),
            "Concurrency(key=...): 'tenant id' is not a path",
        ),
        (lambda: Concurrency(1, key="payload.x"), "is not a path"),
        (lambda: Concurrency(1, key="id.x"), "is not a path"),
        (lambda: Throttle(1, 0), "Throttle(period=...)"),
        (lambda: Throttle(1, 60, key="'a' +"), "Throttle(key=...): \"'a' +\" is not a path"),
        (lambda: Idempotency("event.data.a || async.id"), "there is only one event here"),
        (lambda: Priority("event.data.paid ? 1"), "Priority(path=...)"),
        (lambda: Singleton(key="now() + 1"), "the function now() is not supported"),
        (lambda: Trigger("a/b", condition="data.total > 5"), "the condition of a/b"),
        (lambda: Trigger("a/b", condition="async.data.x"), "there is only one event here"),
        (lambda: CancelOn("a/b", condition="async.data.x ="), "CancelOn(condition=...)"),
        (lambda: RateLimit(0, 60), "RateLimit(limit=0)"),
        (lambda: RateLimit(1, "often"), "is not a duration"),
        (lambda: Debounce("0.5s"), "Debounce(period=...)"),
        (lambda: Debounce(10, max_wait=5), "no less than the period"),
        (lambda: BatchEvents(5001), "BatchEvents(max_size=5001)"),
        (lambda: Timeouts(finish="1m", step="2m"), "Timeouts(finish='1m', step='2m')"),
        (lambda: Retry.exponential(60, max_delay=30), "Retry.exponential(first=60, max_delay=30)"),
        (lambda: BatchEvents(10, "11m"), "BatchEvents(timeout=...)"),
        (lambda: Priority("data level"), "is not a path"),
        (lambda: Priority("$.data.level *"), "at character"),
        (lambda: Priority("data.level", min=5, max=1), "bounds within"),
        (lambda: Singleton("wait"), "'skip' or 'cancel'"),  # type: ignore[arg-type]
        (lambda: Idempotency("order"), "is not a path"),
        (lambda: Timeouts(), "give start, finish, step or several"),
        (lambda: Timeouts(step="soon"), "Timeouts(step=...)"),
        (lambda: Timeouts(step=0.5), "give 1 to"),
        (lambda: Timeouts(start="0s"), "Timeouts(start=...)"),
        (lambda: CancelOn("cart/*"), "without a wildcard"),
        (lambda: CancelOn("a/b", match="cart"), "CancelOn(match=...)"),
        (lambda: CancelOn("a/b", filter="$.x =="), "at character 7"),
        (
            lambda: Trigger("a/b", "$.data.x > "),
            "the filter of a/b: not SQL/JSON path at character 12",
        ),
        (lambda: Trigger(""), "event name"),
        (lambda: Cron("* * * * *", timezone="Mars/Olympus"), "not a time zone"),
        (lambda: Cron("* * * * *", overlap="drop"), "give skip, queue, allow"),  # type: ignore[arg-type]
        (lambda: Retry(by_type={"ValueError": None}), "exception classes"),  # type: ignore[dict-item]
    ],
)
def test_a_wrong_option_is_rejected_with_its_name(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(InvalidOption) as rejected:
        make()
    assert says in str(rejected.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"batch": BatchEvents(), "singleton": Singleton()},
            "function some_job: batch=... and singleton=... contradict",
        ),
        (
            {"batch": BatchEvents(), "debounce": Debounce(5)},
            "function some_job: batch=... and debounce=...",
        ),
        ({"batch": BatchEvents(), "priority": 5}, "function some_job: batch=... and priority=..."),
        (
            {"batch": BatchEvents(), "throttle": Throttle(1, 60)},
            "function some_job: batch=... and throttle=...",
        ),
        ({"batch": BatchEvents(), "cron": Cron("* * * * *")}, "overlap='allow'"),
        ({"priority": 601}, "function some_job: priority=601"),
        ({"throttle": Throttle(2, 60, burst=3)}, "no more than the limit, 2"),
        ({"concurrency": [Concurrency(1), Concurrency(2)]}, "two limits"),
        ({"filter": "$.data.x > @"}, "function some_job: the filter of a/b"),
        ({"cron": Cron("every day")}, "function some_job: cron=Cron('every day') is not"),
        ({"max_batch": 0}, "function some_job: max_batch=0"),
        (
            {"max_batch": 5, "batch": BatchEvents(10)},
            "function some_job: max_batch=5 and batch=... contradict each other: with batch",
        ),
        (
            {"batch": BatchEvents(10, "1m"), "timeouts": Timeouts(start="30s")},
            "function some_job: batch=BatchEvents(timeout='1m') and timeouts=Timeouts(start='30s')",
        ),
        (
            {
                "debounce": Debounce(5, key="data.to"),
                "idempotency": Idempotency("data.to", period="1h"),
            },
            "function some_job: idempotency=... and debounce=... contradict",
        ),
        (
            {"singleton": Singleton(), "concurrency": Concurrency(3)},
            "a singleton runs one at a time, the limit is 3; remove one of them",
        ),
        (
            {"cron": Cron("* * * * *"), "concurrency": Concurrency(3)},
            "cron=Cron(overlap='skip') and concurrency=... contradict",
        ),
        (
            {"cron": Cron("* * * * *", overlap="queue"), "concurrency": Concurrency(3)},
            "give overlap='allow', or remove the concurrency",
        ),
        (
            {"cron": Cron("* * * * *", overlap="queue"), "singleton": Singleton()},
            "give overlap='skip', or remove the singleton",
        ),
        ({"on_failure": some_job}, "function some_job: on_failure=some_job is the job of the"),
        ({"on_success": some_job}, "function some_job: on_success=some_job is the job of the"),
    ],
)
def test_a_contradiction_is_rejected_with_the_function(options: dict[str, Any], says: str) -> None:
    with registry.use(), pytest.raises(InvalidOption) as rejected:
        on_event("a/b", job=some_job, **options)
    assert says in str(rejected.value)


@pytest.mark.parametrize(
    "options",
    [
        {"singleton": Singleton(key="data.to"), "concurrency": Concurrency(3)},
        {"singleton": Singleton(), "concurrency": Concurrency(3, scope="account")},
        {"debounce": Debounce(5, key="data.to"), "idempotency": "data.from"},
        {"batch": BatchEvents(10, "30s"), "timeouts": Timeouts(start="1m")},
        {"batch": BatchEvents(10), "max_batch": 10},
        {"debounce": Debounce("1m"), "timeouts": Timeouts(start="1m")},
        {"cron": Cron("* * * * *", overlap="queue"), "singleton": Singleton(key="data.to")},
        {"cron": Cron("* * * * *", overlap="allow"), "concurrency": Concurrency(3)},
        {"timeouts": Timeouts(finish="1m", step="1m")},
    ],
)
def test_options_that_only_seem_to_contradict_each_other_are_accepted(
    options: dict[str, Any],
) -> None:
    with registry.use():
        assert on_event("a/b", job=some_job, **options)


def test_a_queue_of_a_schedule_is_one_at_a_time_beside_a_shared_limit() -> None:
    cron = Cron("* * * * *", overlap="queue")
    with registry.use():
        on_event(job=some_job, cron=cron, concurrency=Concurrency(5, scope="account"))
        [function] = registry.functions()
    assert function.flow.concurrency[1:] == (Concurrency(1),)


def test_a_filter_without_an_event_is_rejected() -> None:
    with registry.use(), pytest.raises(InvalidOption, match="applies to no event"):
        on_event(job=some_job, cron=Cron("* * * * *"), filter="$.data.x > 1")


@pytest.mark.parametrize("other", ["shop/order.placed", "shop/*"])
def test_a_filter_of_events_that_start_the_function_anyway_is_rejected(other: str) -> None:
    with registry.use(), pytest.raises(InvalidOption, match="has no effect: remove one of these"):
        on_event(Trigger("shop/order.placed", "$.data.total > 100"), other, job=some_job)


def test_a_function_needs_something_that_starts_it() -> None:
    with registry.use(), pytest.raises(InvalidOption, match="at least one event name, or cron"):
        on_event(job=some_job)


def test_a_shared_limit_must_be_the_same_everywhere() -> None:
    with registry.use():
        on_event("a/b", job=some_job, name="one", concurrency=Concurrency(2, scope="account"))
        with pytest.raises(InvalidOption, match="the limit 3 in two and 2 in one"):
            on_event("a/b", job=some_job, name="two", concurrency=Concurrency(3, scope="account"))


def test_remote_functions_may_have_what_inngest_allows() -> None:
    flow = Flow(throttle=Throttle(2, 60, burst=3))
    with registry.use():
        registry.add(Function("without_triggers", "job", (), flow=flow, remote=True))
        for limit in (2, 3):
            shared = Flow(concurrency=(Concurrency(limit, scope="account"),))
            registry.add(Function(f"limit_{limit}", "job", ("a/b",), flow=shared, remote=True))
        assert len(registry.functions()) == 3


def test_a_replaced_registry_comes_back() -> None:
    before = registry.functions()
    with registry.use(Function("alone", "alone_job", ("a/b",))):
        assert [function.name for function in registry.functions()] == ["alone"]
    assert registry.functions() == before


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (90, 90),
        ("30s", 30),
        ("1h30m", 5400),
        ("1.5d", 129_600),
        ("2w", 1_209_600),
        ("250ms", 0.25),
        (timedelta(minutes=2), 120),
    ],
)
def test_durations_are_read_as_people_write_them(duration: Any, expected: float) -> None:
    assert seconds(duration, "x") == expected


def test_the_most_specific_type_of_an_error_decides() -> None:
    rules = Retry(
        attempts=3,
        delays=(10,),
        jitter=0,
        by_type={OSError: None, ConnectionError: Retry(attempts=9, delays=(1,), jitter=0)},
    )
    dice = random.Random(0)
    delays = [
        rules.delay_after(error, 2, dice)
        for error in (ConnectionResetError(), FileNotFoundError(), ValueError(), NonRetriable())
    ]
    assert delays == [1, None, 10, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tuesday", "2026-11-24T00:00"),
        ("wednesday", "2026-11-18T00:00"),
        ("yesterday", "2026-11-24T00:00"),
        ("2h", "2026-11-25T10:00"),
        ("2026-11-01", "2026-11-01T00:00"),
        ("2026-11-01T08:30", "2026-11-01T08:30"),
    ],
)
def test_times_are_read_as_people_write_them(text: str, expected: str) -> None:
    clock.freeze(
        datetime(2026, 11, 25, 12, tzinfo=UTC).astimezone().replace(hour=12).astimezone(UTC)
    )
    try:
        assert f"{parse_time(text, '--since').astimezone():%Y-%m-%dT%H:%M}" == expected
    finally:
        clock.freeze(None)
    with pytest.raises(InvalidOption, match="--since 'noon'"):
        parse_time("noon", "--since")
