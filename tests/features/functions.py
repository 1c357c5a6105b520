"""A small function for every flow control rule and every kind of step, named for what it has."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from dagster import (
    Definitions,
    JobDefinition,
    OpDefinition,
    SensorDefinition,
    in_process_executor,
    job,
    op,
)

from runyard import (
    Batch,
    BatchEvents,
    BatchIOManager,
    CancelOn,
    Concurrency,
    Cron,
    Debounce,
    Event,
    Idempotency,
    Item,
    NonRetriable,
    Priority,
    RateLimit,
    Retry,
    RetryAfter,
    Singleton,
    Throttle,
    Timeouts,
    Trigger,
    join,
    on_event,
    receive,
    settle,
)

jobs: list[JobDefinition] = []
sensors: list[SensorDefinition] = []
schedules: list[Any] = []
ERRORS = {"value": ValueError, "key": KeyError, "final": NonRetriable}
quick = Retry(attempts=3, delays=(10.0, 20.0), jitter=0)


def make_job(name: str, *bodies: Callable[[Batch], Batch]) -> JobDefinition:
    """Make a job with one op for each body."""
    ops: list[OpDefinition] = []
    for number, body in enumerate(bodies):

        def run(batch: Batch, body: Callable[[Batch], Batch] = body) -> Batch:
            return body(batch)

        ops.append(op(name=f"{name}_{number}", ins={}, description=body.__doc__)(_typed(run)))

    def graph() -> None:
        batch = receive()
        for run in ops:
            batch = run(batch)
        settle(batch)

    graph.__name__ = name
    definition = job(executor_def=in_process_executor, name=name)(graph)
    jobs.append(definition)
    return definition


def _typed(run: Callable[..., Batch]) -> Callable[[Batch], Batch]:
    def typed(batch: Batch) -> Batch:
        return run(batch)

    return typed


def function(
    name: str, *bodies: Callable[[Batch], Batch], on: str | Trigger | None = "", **options: Any
) -> None:
    """Make a function with a job of its own; `<name>/go` starts it unless `on` says otherwise."""
    events = () if on is None else (on or f"{name}/go",)
    options.setdefault("retry", quick)
    sensor = on_event(*events, job=make_job(name, *bodies), **options)
    sensors.append(sensor)
    schedules.extend(sensor.schedules)


def work(batch: Batch) -> Batch:
    """A step that fails as its event's data says."""

    def do(item: Item) -> Any:
        data = item.event.data
        if item.attempt <= data.get("fails", 0):
            kind = ERRORS.get(data.get("kind", ""), RuntimeError)
            raise kind(f"failure {item.attempt}")
        if data.get("after") and item.attempt == 1:
            raise RetryAfter("later", data["after"])
        return {"n": data.get("n"), "attempt": item.attempt}

    return batch.map("work", do)


def after(batch: Batch) -> Batch:
    """A step after the others."""
    return batch.map("after", lambda item: "done")


# What `giver` does for an item, by the `deed` in its data; tests add their own.
deeds: dict[str, Callable[[Item], Any]] = {}


def give(batch: Batch) -> Batch:
    """A step that does what a test has put into `deeds`."""
    return batch.map("give", lambda item: deeds[item.event.data["deed"]](item))


function("giver", give)
function(
    "chosen_giver",
    lambda b: b.map(
        "give", lambda item: "given", when=lambda item: deeds[item.event.data["deed"]](item)
    ),
)
function(
    "sending_giver",
    lambda b: b.send_events("give", lambda item: deeds[item.event.data["deed"]](item)),
)
function(
    "waiting_giver",
    lambda b: b.wait_for_event(
        "give",
        "given/now",
        match=lambda item: {"data.key": deeds[item.event.data["deed"]](item)},
        timeout="1h",
    ),
)
function(
    "together_giver",
    lambda b: b.map_batch(
        "give", lambda items: [deeds[item.event.data["deed"]](item) for item in items]
    ),
)
function("badly_named", lambda b: b.map("a\0b", lambda item: deeds["note"](item)))
function(
    "threaded_giver",
    lambda b: b.map("give", lambda item: deeds["do"](item), threads=4, checkpoint_every=1),
)
function(
    "limited_giver",
    lambda b: b.map("give", lambda item: deeds["do"](item), threads=4, timeout="1s"),
)
function("plain", work)
function("wild", work, on="shop/*")
function("filtered", work, on="order/placed", filter='$.data.total > 100 && $.data.country == "CH"')
function("two", work, on=Trigger("two/a", "$.data.vip"))
function("nightly", work, on=None, cron=Cron("0 2 * * *", timezone="Europe/Zurich"))
function("queueing", work, on=None, cron=Cron("*/5 * * * *", overlap="queue", catch_up="all"))

function(
    "sleeper", work, lambda b: b.sleep("nap", lambda item: item.event.data.get("nap", "3d")), after
)
function(
    "until",
    lambda b: b.sleep_until("morning", lambda item: datetime.fromisoformat(item.event.data["at"])),
    after,
)
function(
    "waiter",
    work,
    lambda b: b.wait_for_event("answer", "answer/given", match="data.order", timeout="7d"),
    after,
)
function(
    "chooser",
    lambda b: b.wait_for_event(
        "choice",
        "choice/made",
        match=lambda item: {"data.to": item.event.data["from"]},
        filter="$.data.sure",
        timeout="1h",
    ),
    after,
)
function("again", lambda b: b.wait_for_event("next", "again/go", timeout="7d"), after)
function(
    "caller",
    lambda b: b.invoke(
        "call",
        "plain",
        lambda item: {"n": item.event.data["n"] * 2, "fails": item.event.data.get("fails", 0)},
    ),
    after,
)
function("impatient", lambda b: b.invoke("call", "sleeper", timeout="1h"), after)
function(
    "sender",
    lambda b: b.send_events(
        "tell", lambda item: [Event("told/one", {"n": 1}), Event("plain/go", {"n": 2})]
    ),
    work,
)
function(
    "stepwise",
    lambda b: b.map("careful", lambda item: 1 / 0, retry=Retry(attempts=2, delays=(5,), jitter=0)),
    work,
)
function(
    "typed",
    work,
    retry=Retry(
        attempts=3,
        delays=(10,),
        jitter=0,
        by_type={ValueError: None, KeyError: Retry(attempts=2, delays=(1,), jitter=0)},
    ),
)

function("limited", work, concurrency=Concurrency(2, key="data.tenant"))
function("narrow", work, concurrency=[Concurrency(3), Concurrency(1, key="data.tenant")])
function("shared_a", work, concurrency=Concurrency(1, key="data.tenant", scope="account"))
function("shared_b", work, concurrency=Concurrency(1, key="data.tenant", scope="account"))
function("fair", work, max_batch=10, concurrency=Concurrency(1000, key="data.tenant"))
function("throttled", work, throttle=Throttle(6, 60, burst=2))
function("throttled_by", work, throttle=Throttle(1, 60, key="data.tenant"))
function("rated", work, rate_limit=RateLimit(2, 60, key="data.user"))
function("once", work, idempotency="data.order")
function("debounced", work, debounce=Debounce(10, key="data.doc", max_wait=25))
function("gathered", work, batch=BatchEvents(3, 30, key="data.tenant"))
function("ranked", work, max_batch=1, priority=Priority("data.level", min=-5, max=5))
function("expressed", work, max_batch=1, priority=Priority("$.data.level * 10"))
function("skipping", work, lambda b: b.sleep("hold", 60), singleton=Singleton(key="data.doc"))
function(
    "replacing", work, lambda b: b.sleep("hold", 60), singleton=Singleton("cancel", key="data.doc")
)
function("late_start", work, concurrency=Concurrency(1), timeouts=Timeouts(start=60))
function("late_end", work, lambda b: b.sleep("hold", 600), timeouts=Timeouts(finish=60))
function(
    "cancellable",
    lambda b: b.sleep("hold", 600),
    on="cart/filled",
    cancel_on=CancelOn("cart/emptied", match="data.cart", filter="$.data.sure != false"),
)
function(
    "combined",
    work,
    concurrency=Concurrency(1, key="data.tenant"),
    rate_limit=RateLimit(3, 60, key="data.tenant"),
    idempotency=Idempotency("data.order", "1h"),
    priority=Priority("data.level"),
)

# The same options with expressions.
PAIR_OF_KEYS = "event.data.tenant + '-' + event.data.region"
function("x_limited", work, concurrency=Concurrency(1, key=PAIR_OF_KEYS))
function("x_constant", work, concurrency=Concurrency(1, key='"openai"', scope="providers"))
function("x_throttled", work, throttle=Throttle(1, 60, key=PAIR_OF_KEYS))
function("x_rated", work, rate_limit=RateLimit(1, 60, key=PAIR_OF_KEYS))
function("x_once", work, idempotency="event.data.order || event.data.cart")
function("x_debounced", work, debounce=Debounce(10, key=PAIR_OF_KEYS))
function("x_gathered", work, batch=BatchEvents(3, 30, key=PAIR_OF_KEYS))
function(
    "x_single",
    work,
    lambda b: b.sleep("hold", 60),
    singleton=Singleton(key="event.data.vip ? false : event.data.doc"),
)
function(
    "x_single_path", work, lambda b: b.sleep("hold", 60), singleton=Singleton(key="data.exclusive")
)
function("x_ranked", work, max_batch=1, priority=Priority("event.data.plan == 'paid' ? 700 : -1.4"))
function(
    "x_chosen",
    work,
    on=Trigger("sale/made", condition="event.data.total > 100 && event.data.country in ['CH']"),
)
function("x_any", work, on=Trigger("*", condition="event.data.any == 'x'"))
function(
    "x_cancellable",
    lambda b: b.sleep("hold", 600),
    on="basket/filled",
    cancel_on=CancelOn(
        "basket/emptied",
        condition="async.data.basket == event.data.basket && async.data.items < event.data.items",
    ),
)
function(
    "x_waiter",
    lambda b: b.wait_for_event(
        "answer",
        "reply/given",
        condition="async.data.order == event.data.order && async.data.sum >= event.data.sum",
        timeout="1h",
    ),
)

function("watched", work, on_failure=make_job("mourn", work), on_success=make_job("rejoice", work))
function("listening", work, on="runyard/function.cancelled")
function(
    "looping",
    work,
    on=Trigger(
        "runyard/function.finished", '$.data.function == "stepwise" || $.data.function == "looping"'
    ),
)


@op
def left(batch: Batch) -> Batch:
    return batch.sleep("left", 60)


@op
def right(batch: Batch) -> Batch:
    return batch.map(
        "right", lambda item: 1 / 0 if item.attempt <= item.event.data.get("fails", 0) else "r"
    )


@op
def finish(batch: Batch) -> Batch:
    return batch.map("finish", lambda item: [item["left"], item["right"]])


@job(executor_def=in_process_executor)
def parallel() -> None:
    batch = receive()
    settle(finish(join([left(batch), right(batch)])))


jobs.append(parallel)
sensors.append(on_event("parallel/go", job=parallel, retry=quick))
defs = Definitions(
    jobs=jobs, sensors=sensors, schedules=schedules, resources={"io_manager": BatchIOManager()}
)
