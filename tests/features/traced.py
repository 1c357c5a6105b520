"""Functions whose traces are tested."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import runyard
from runyard import Event, Item, Retry, Run, definitions, function, step

SECRET = "sk-" + "proj-0123456789abcdefghijklmnop"
quick = Retry(attempts=3, delays=(10.0,), jitter=0)
# What the step `pick` does besides; tests set it.
deeds: dict[str, Callable[[Item], Any]] = {}


@step
def pick(item: Item) -> Any:
    if item.attempt <= item.event.data.get("fails", 0):
        raise ConnectionError(f"the shelf refused {SECRET}")
    return deeds.get("pick", lambda item: "picked")(item)


@function("traced/placed", retry=quick)
def pack(run: Run) -> None:
    pick(run)
    run.send_events("tell", lambda item: Event("traced/packed", {"card": SECRET}))


@function("traced/packed", retry=quick)
def post(item: Item) -> str:
    return "posted"


@function("traced/awaited", retry=quick)
async def wait_for(item: Item) -> Any:
    return deeds.get("wait", lambda item: "waited")(item)


@function("traced/counted", retry=quick)
def count(items: Sequence[Item]) -> list[int]:
    return [len(items) for _ in items]


@function("traced/noted", retry=quick)
def note(item: Item) -> str:
    runyard.send("traced/packed")
    return "noted"


@step(threads=2, timeout="1s")
def wait(item: Item) -> Any:
    return deeds["wait"](item)


@function("traced/hung", retry=Retry(attempts=1))
def hang(run: Run) -> None:
    wait(run)


@function("traced/asked", retry=quick)
def ask(run: Run) -> None:
    run.sleep("nap", "1m")
    run.invoke("call", post)


defs = definitions(sys.modules[__name__])
