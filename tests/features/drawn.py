"""Functions in the light form, one for each kind of step and way of drawing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dagster import Config, ConfigurableResource, OpExecutionContext, ResourceParam

from runyard import (
    Batch,
    Event,
    EventData,
    Item,
    NonRetriable,
    Retry,
    Run,
    clock,
    event_type,
    function,
    step,
)

quick = Retry(attempts=3, delays=(10.0, 20.0), jitter=0)
# What a step does for an item, by the step's name; tests add their own.
deeds: dict[str, Callable[..., Any]] = {}
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@event_type("drawn/paid")
class Paid(EventData):
    amount: int
    approval: str = "a1"


@event_type("drawn/approved")
class Approved(EventData):
    key: str
    by: str


class Bank(ConfigurableResource):
    """A resource of Dagster."""

    name: str = "bank"


class Clerk:
    """A resource that is a plain object."""

    def __init__(self, name: str) -> None:
        self.name = name


class Fee(Config):
    """What the launchpad asks for."""

    cents: int = 5


@dataclass
class Receipt:
    """What a payment comes to."""

    number: int
    amount: int


# --- One step


@function("drawn/published", retry=quick)
def announce(item: Item) -> str:
    """Announce an article."""
    return f"{item.data['title']}, attempt {item.attempt}"


@function("drawn/sent", retry=quick)
async def deliver(item: Item) -> str:
    return f"delivered {item.data['n']}"


@function("drawn/rated", retry=quick)
def rate(items: Sequence[Item]) -> list[int | Exception]:
    return [
        ValueError("too low") if item.data["n"] < 0 else item.data["n"] + len(items)
        for item in items
    ]


@function("drawn/sorted", retry=quick)
def sort(batch: Batch) -> Batch:
    return batch.map("first", lambda item: item.data["n"]).map("then", lambda item: item["first"])


# --- Waiting steps


@step
def done(item: Item) -> str:
    return "done"


@step
def charge(item: Item[Paid], bank: Bank, clerk: ResourceParam[Clerk]) -> Receipt:
    return Receipt(number=len(bank.name), amount=item.data.amount)


@step(timeout="1m")
def thank(item: Item[Paid], context: OpExecutionContext, config: Fee) -> list[Any]:
    receipt = charge.result(item)
    return [type(receipt).__name__, receipt.amount, config.cents, context.op.name]


@function(Paid, retry=quick)
def journey(run: Run) -> None:
    """Charge, wait in every way, and thank."""
    charge(run)
    run.sleep("wait", "10s")
    run.sleep_until("dawn", lambda item: clock.now() + timedelta(seconds=5))
    run.wait_for_event(
        "approval", Approved, match=lambda item: {"data.key": item.data.approval}, timeout="1h"
    )
    run.invoke("announcement", announce, lambda item: {"title": str(item.data.amount)})
    run.send_events("tell", lambda item: Event("drawn/told", {"amount": item.data.amount}))
    thank(run)


@function("drawn/fixed", retry=quick)
def fixed(run: Run) -> None:
    run.sleep_until("dawn", datetime.fromisoformat("2020-01-01T00:00:00+00:00"))
    run.wait_for_event("answer", "drawn/answered", match="data.key", filter="$.data.sure")
    done(run)


# --- Branches


@step
def left(item: Item) -> str:
    return deeds.get("left", lambda item: "left")(item)


@step
def right(item: Item) -> str:
    return deeds.get("right", lambda item: "right")(item)


@step
def finish(item: Item) -> list[str]:
    return [name for name in ("left", "right", "inner", "outer") if name in item.outputs]


def several(run: Run) -> None:
    right(run)
    run.sleep("nap", 60)
    run.parallel(right.named("inner"), right.named("outer"))


@function("drawn/split", retry=quick)
def split(run: Run) -> None:
    run.parallel(left, several)
    finish(run)


@function("drawn/around", retry=quick)
def around(run: Run) -> None:
    done(run)
    split(run)


# --- Elements


def headings(item: Item) -> Sequence[str]:
    made = deeds.get("headings", lambda item: item.data["headings"])(item)
    return made if isinstance(made, Sequence) else list(made)


@step(each=headings, retry=Retry(attempts=3, delays=(10.0,), jitter=0))
def section(item: Item, heading: str, bank: Bank) -> dict[str, str]:
    deeds.get("section", lambda item, heading: None)(item, heading)
    return {bank.name: heading.upper()}


@step
def publish(item: Item) -> str:
    return ",".join(each["bank"] for each in section.results(item))


@function("drawn/outlined", retry=quick)
def article(run: Run) -> None:
    section(run)
    publish(run)


@step(each=headings, when=lambda item: item.data.get("wanted", True), tasks=4)
async def translation(item: Item, heading: str) -> str:
    await asyncio.sleep(0)
    return heading[::-1]


@function("drawn/translated", retry=quick)
def translated(run: Run) -> None:
    translation(run)
    done(run)


# --- Async


@step(tasks=4, checkpoint_every=1, timeout="1s")
async def fetch(item: Item) -> Any:
    return await deeds["fetch"](item)


@function("drawn/fetched", retry=quick)
def fetching(run: Run) -> None:
    fetch(run)
    done(run)


@step(tasks=4)
async def linger(item: Item) -> Any:
    return await deeds["linger"](item)


@function("drawn/lingering", retry=quick)
def lingering(run: Run) -> None:
    linger(run)
    done(run)


# --- The end of an invocation


@step
def mourn(item: Item) -> str:
    return item.data["error"]["message"]


def rejoice(run: Run) -> None:
    done.named("cheer")(run)
    done(run)


@function("drawn/guarded", retry=Retry(attempts=1), on_failure=mourn, on_success=rejoice)
def guarded(item: Item) -> str:
    if item.data.get("fails"):
        raise NonRetriable("this can never work")
    return "guarded"


@step
def caught(item: Item) -> str:
    return "caught"


@function("drawn/asking", retry=quick)
def asking(run: Run) -> None:
    run.invoke("call", guarded)
    caught(run)


@function("drawn/one", "drawn/two", "drawn/wild.*", retry=quick)
def many_events(item: Item) -> str:
    return item.event.name


resources = {"bank": Bank(), "clerk": Clerk("Ada")}
