"""Functions whose only step waits 100 ms, as for a server: the load of the benchmark `workers`."""

import asyncio
import time

from runyard import Item, Run, definitions, function, step

WAIT_SECONDS = 0.1


@step
def wait(item: Item):
    """Wait as a plain Python function does."""
    time.sleep(WAIT_SECONDS)
    return {"n": item.event.data["n"]}


@step
async def wait_async(item: Item):
    """Wait as an `async def` does: up to 50 invocations of a run at a time, by default."""
    await asyncio.sleep(WAIT_SECONDS)
    return {"n": item.event.data["n"]}


def _alone(run: Run) -> None:
    wait(run)


def _together(run: Run) -> None:
    wait_async(run)


waits_alone = function("bench/alone", name="waits_alone", max_batch=1)(_alone)
waits_together = function("bench/together", name="waits_together")(_together)

defs = definitions(waits_alone, waits_together)
