"""A small function for every flow control rule and every kind of step, named for what it has."""

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from dagster import in_process_executor, job, op

from runyard import (
    Batch,
    BatchEvents,
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
    Run,
    Singleton,
    Throttle,
    Timeouts,
    Trigger,
    definitions,
    function,
    join,
    on_event,
    receive,
    settle,
    step,
)

ERRORS = {"value": ValueError, "key": KeyError, "final": NonRetriable}
quick = Retry(attempts=3, delays=(10.0, 20.0), jitter=0)
# What `giver` does for an item, by the `deed` in its data; tests add their own.
deeds: dict[str, Callable[[Item], Any]] = {}


def do_work(item: Item) -> Any:
    """Fail as the event's data says."""
    data = item.event.data
    if item.attempt <= data.get("fails", 0):
        kind = ERRORS.get(data.get("kind", ""), RuntimeError)
        raise kind(f"failure {item.attempt}")
    if data.get("after") and item.attempt == 1:
        raise RetryAfter("later", data["after"])
    return {"n": data.get("n"), "attempt": item.attempt}


work = step(name="work")(do_work)


@step
def after(item: Item) -> str:
    """A step after the others."""
    return "done"


# --- What a test says


def deed(item: Item) -> Any:
    """What the test says to do for this item."""
    return deeds[item.event.data["deed"]](item)


@step
def give(item: Item) -> Any:
    return deed(item)


giver = function("giver/go", name="giver", retry=quick)(give)


@step(name="give", when=deed)
def give_if_chosen(item: Item) -> str:
    return "given"


chosen_giver = function("chosen_giver/go", name="chosen_giver", retry=quick)(give_if_chosen)


@function("sending_giver/go", retry=quick)
def sending_giver(run: Run) -> None:
    run.send_events("give", deed)


@function("waiting_giver/go", retry=quick)
def waiting_giver(run: Run) -> None:
    run.wait_for_event(
        "give", "given/now", match=lambda item: {"data.key": deed(item)}, timeout="1h"
    )


@step(name="give")
def give_together(items: Sequence[Item]) -> list[Any]:
    return [deed(item) for item in items]


together_giver = function("together_giver/go", name="together_giver", retry=quick)(give_together)


@function("badly_named/go", retry=quick)
def badly_named(batch: Batch) -> Batch:
    return batch.map("a\0b", lambda item: deeds["note"](item))


@step(name="give", threads=4, checkpoint_every=1)
def give_in_threads(item: Item) -> Any:
    return deeds["do"](item)


@step(name="give", threads=4, timeout="1s")
def give_in_time(item: Item) -> Any:
    return deeds["do"](item)


threaded_giver = function("threaded_giver/go", name="threaded_giver", retry=quick)(give_in_threads)
limited_giver = function("limited_giver/go", name="limited_giver", retry=quick)(give_in_time)

# --- What starts a function

plain = function("plain/go", name="plain", retry=quick)(work)
wild = function("shop/*", name="wild", retry=quick)(work)
filtered = function(
    "order/placed",
    name="filtered",
    retry=quick,
    filter='$.data.total > 100 && $.data.country == "CH"',
)(work)
two = function(Trigger("two/a", "$.data.vip"), name="two", retry=quick)(work)
nightly = function(name="nightly", retry=quick, cron=Cron("0 2 * * *", timezone="Europe/Zurich"))(
    work
)
queueing = function(
    name="queueing", retry=quick, cron=Cron("*/5 * * * *", overlap="queue", catch_up="all")
)(work)

# --- Steps that wait


@function("sleeper/go", retry=quick)
def sleeper(run: Run) -> None:
    work(run)
    run.sleep("nap", lambda item: item.event.data.get("nap", "3d"))
    after(run)


@function("until/go", retry=quick)
def until(run: Run) -> None:
    run.sleep_until("morning", lambda item: datetime.fromisoformat(item.event.data["at"]))
    after(run)


@function("waiter/go", retry=quick)
def waiter(run: Run) -> None:
    work(run)
    run.wait_for_event("answer", "answer/given", match="data.order", timeout="7d")
    after(run)


@function("chooser/go", retry=quick)
def chooser(run: Run) -> None:
    run.wait_for_event(
        "choice",
        "choice/made",
        match=lambda item: {"data.to": item.event.data["from"]},
        filter="$.data.sure",
        timeout="1h",
    )
    after(run)


@function("again/go", retry=quick)
def again(run: Run) -> None:
    run.wait_for_event("next", "again/go", timeout="7d")
    after(run)


def doubled(item: Item) -> dict[str, Any]:
    """The data of the call."""
    return {"n": item.event.data["n"] * 2, "fails": item.event.data.get("fails", 0)}


@function("caller/go", retry=quick)
def caller(run: Run) -> None:
    run.invoke("call", plain, doubled)
    after(run)


@function("impatient/go", retry=quick)
def impatient(run: Run) -> None:
    run.invoke("call", sleeper, timeout="1h")
    after(run)


def news(item: Item) -> list[Event]:
    """What `sender` sends."""
    return [Event("told/one", {"n": 1}), Event("plain/go", {"n": 2})]


@function("sender/go", retry=quick)
def sender(run: Run) -> None:
    run.send_events("tell", news)
    work(run)


@step(retry=Retry(attempts=2, delays=(5,), jitter=0))
def careful(item: Item) -> float:
    return 1 / 0


@function("stepwise/go", retry=quick)
def stepwise(run: Run) -> None:
    careful(run)
    work(run)


typed = function(
    "typed/go",
    name="typed",
    retry=Retry(
        attempts=3,
        delays=(10,),
        jitter=0,
        by_type={ValueError: None, KeyError: Retry(attempts=2, delays=(1,), jitter=0)},
    ),
)(work)


@step
def right(item: Item) -> Any:
    return 1 / 0 if item.attempt <= item.event.data.get("fails", 0) else "r"


@step
def finish(item: Item) -> list[Any]:
    return [item["left"], item["right"]]


@function("parallel/go", retry=quick)
def parallel(run: Run) -> None:
    run.parallel(lambda branch: branch.sleep("left", 60), right)
    finish(run)


# --- Flow control

limited = function(
    "limited/go", name="limited", retry=quick, concurrency=Concurrency(2, key="data.tenant")
)(work)
narrow = function(
    "narrow/go",
    name="narrow",
    retry=quick,
    concurrency=[Concurrency(3), Concurrency(1, key="data.tenant")],
)(work)
by_account = Concurrency(1, key="data.tenant", scope="account")
shared_a = function("shared_a/go", name="shared_a", retry=quick, concurrency=by_account)(work)
shared_b = function("shared_b/go", name="shared_b", retry=quick, concurrency=by_account)(work)
fair = function(
    "fair/go",
    name="fair",
    retry=quick,
    max_batch=10,
    concurrency=Concurrency(1000, key="data.tenant"),
)(work)
throttled = function(
    "throttled/go", name="throttled", retry=quick, throttle=Throttle(6, 60, burst=2)
)(work)
throttled_by = function(
    "throttled_by/go", name="throttled_by", retry=quick, throttle=Throttle(1, 60, key="data.tenant")
)(work)
rated = function(
    "rated/go", name="rated", retry=quick, rate_limit=RateLimit(2, 60, key="data.user")
)(work)
once = function("once/go", name="once", retry=quick, idempotency="data.order")(work)
debounced = function(
    "debounced/go",
    name="debounced",
    retry=quick,
    debounce=Debounce(10, key="data.doc", max_wait=25),
)(work)
gathered = function(
    "gathered/go", name="gathered", retry=quick, batch=BatchEvents(3, 30, key="data.tenant")
)(work)
ranked = function(
    "ranked/go",
    name="ranked",
    retry=quick,
    max_batch=1,
    priority=Priority("data.level", min=-5, max=5),
)(work)
expressed = function(
    "expressed/go",
    name="expressed",
    retry=quick,
    max_batch=1,
    priority=Priority("$.data.level * 10"),
)(work)


def hold_a_minute(run: Run) -> None:
    """Work, and stay for a minute."""
    work(run)
    run.sleep("hold", 60)


skipping = function(
    "skipping/go", name="skipping", retry=quick, singleton=Singleton(key="data.doc")
)(hold_a_minute)
replacing = function(
    "replacing/go", name="replacing", retry=quick, singleton=Singleton("cancel", key="data.doc")
)(hold_a_minute)
late_start = function(
    "late_start/go",
    name="late_start",
    retry=quick,
    concurrency=Concurrency(1),
    timeouts=Timeouts(start=60),
)(work)


@function("late_end/go", retry=quick, timeouts=Timeouts(finish=60))
def late_end(run: Run) -> None:
    work(run)
    run.sleep("hold", 600)


@function(
    "cart/filled",
    retry=quick,
    cancel_on=CancelOn("cart/emptied", match="data.cart", filter="$.data.sure != false"),
)
def cancellable(run: Run) -> None:
    run.sleep("hold", 600)


combined = function(
    "combined/go",
    name="combined",
    retry=quick,
    concurrency=Concurrency(1, key="data.tenant"),
    rate_limit=RateLimit(3, 60, key="data.tenant"),
    idempotency=Idempotency("data.order", "1h"),
    priority=Priority("data.level"),
)(work)

# --- The same options with expressions

PAIR_OF_KEYS = "event.data.tenant + '-' + event.data.region"
x_limited = function(
    "x_limited/go", name="x_limited", retry=quick, concurrency=Concurrency(1, key=PAIR_OF_KEYS)
)(work)
x_constant = function(
    "x_constant/go",
    name="x_constant",
    retry=quick,
    concurrency=Concurrency(1, key='"openai"', scope="providers"),
)(work)
x_throttled = function(
    "x_throttled/go", name="x_throttled", retry=quick, throttle=Throttle(1, 60, key=PAIR_OF_KEYS)
)(work)
x_rated = function(
    "x_rated/go", name="x_rated", retry=quick, rate_limit=RateLimit(1, 60, key=PAIR_OF_KEYS)
)(work)
x_once = function(
    "x_once/go", name="x_once", retry=quick, idempotency="event.data.order || event.data.cart"
)(work)
x_debounced = function(
    "x_debounced/go", name="x_debounced", retry=quick, debounce=Debounce(10, key=PAIR_OF_KEYS)
)(work)
x_gathered = function(
    "x_gathered/go", name="x_gathered", retry=quick, batch=BatchEvents(3, 30, key=PAIR_OF_KEYS)
)(work)
x_single = function(
    "x_single/go",
    name="x_single",
    retry=quick,
    singleton=Singleton(key="event.data.vip ? false : event.data.doc"),
)(hold_a_minute)
x_single_path = function(
    "x_single_path/go",
    name="x_single_path",
    retry=quick,
    singleton=Singleton(key="data.exclusive"),
)(hold_a_minute)
x_ranked = function(
    "x_ranked/go",
    name="x_ranked",
    retry=quick,
    max_batch=1,
    priority=Priority("event.data.plan == 'paid' ? 700 : -1.4"),
)(work)
x_chosen = function(
    Trigger("sale/made", condition="event.data.total > 100 && event.data.country in ['CH']"),
    name="x_chosen",
    retry=quick,
)(work)
x_any = function(Trigger("*", condition="event.data.any == 'x'"), name="x_any", retry=quick)(work)


@function(
    "basket/filled",
    retry=quick,
    cancel_on=CancelOn(
        "basket/emptied",
        condition="async.data.basket == event.data.basket && async.data.items < event.data.items",
    ),
)
def x_cancellable(run: Run) -> None:
    run.sleep("hold", 600)


@function("x_waiter/go", retry=quick)
def x_waiter(run: Run) -> None:
    run.wait_for_event(
        "answer",
        "reply/given",
        condition="async.data.order == event.data.order && async.data.sum >= event.data.sum",
        timeout="1h",
    )


# --- Functions that run after another one

watched = function("watched/go", name="watched", retry=quick, on_failure=work, on_success=work)(
    work
)
listening = function("runyard/function.cancelled", name="listening", retry=quick)(work)
looping = function(
    Trigger(
        "runyard/function.finished", '$.data.function == "stepwise" || $.data.function == "looping"'
    ),
    name="looping",
    retry=quick,
)(work)


# --- The same in the long form


@op
def long_work(batch: Batch) -> Batch:
    return batch.map("work", do_work)


@op
def long_after(batch: Batch) -> Batch:
    return batch.map("after", lambda item: "done")


@op
def long_nap(batch: Batch) -> Batch:
    return batch.sleep("nap", lambda item: item.event.data.get("nap", "3d"))


@op
def long_answer(batch: Batch) -> Batch:
    return batch.wait_for_event("answer", "answer/given", match="data.order", timeout="7d")


@op
def long_call(batch: Batch) -> Batch:
    return batch.invoke("call", "plain", doubled)


@op
def long_tell(batch: Batch) -> Batch:
    return batch.send_events("tell", news)


@op
def long_left(batch: Batch) -> Batch:
    return batch.sleep("left", 60)


@op
def long_right(batch: Batch) -> Batch:
    return batch.map(
        "right", lambda item: 1 / 0 if item.attempt <= item.event.data.get("fails", 0) else "r"
    )


@op
def long_finish(batch: Batch) -> Batch:
    return batch.map("finish", lambda item: [item["left"], item["right"]])


@job(executor_def=in_process_executor)
def long_plain() -> None:
    settle(long_work(receive()))


@job(executor_def=in_process_executor)
def long_sleeper() -> None:
    settle(long_after(long_nap(long_work(receive()))))


@job(executor_def=in_process_executor)
def long_waiter() -> None:
    settle(long_after(long_answer(long_work(receive()))))


@job(executor_def=in_process_executor)
def long_caller() -> None:
    settle(long_after(long_call(receive())))


@job(executor_def=in_process_executor)
def long_sender() -> None:
    settle(long_work(long_tell(receive())))


@job(executor_def=in_process_executor)
def long_parallel() -> None:
    batch = receive()
    settle(long_finish(join([long_left(batch), long_right(batch)])))


long_jobs = [long_plain, long_sleeper, long_waiter, long_caller, long_sender, long_parallel]
long_sensors = [on_event(f"{each.name}/go", job=each, retry=quick) for each in long_jobs]
defs = definitions(sys.modules[__name__], *long_sensors)
