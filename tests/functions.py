"""Functions for the tests: they fail, wait and leave traces as their events say."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster import InitResourceContext, ResourceParam, job, multiprocess_executor, op, resource

from runyard import (
    Batch,
    Concurrency,
    Cron,
    Event,
    Item,
    NonRetriable,
    Retry,
    RetryAfter,
    Run,
    Timeouts,
    function,
    join,
    on_event,
    receive,
    settle,
    step,
)

quick = Retry(attempts=3, delays=(0.3,), jitter=0)


def _leave(item: Item, step: str) -> None:
    """Leave a line for each time a step ran for a key."""
    key = item.event.data.get("key")
    if key:
        with (Path(os.environ["RUNYARD_EFFECTS"]) / str(key)).open("a") as file:
            file.write(f"{step} {item.event.data.get('n', 0)} {item.attempt}\n")


@step
def first(item: Item) -> dict[str, Any]:
    _leave(item, "first")
    return {"n": item.event.data.get("n", 0)}


@step(checkpoint_every=1)
def second(item: Item) -> dict[str, Any]:
    data = item.event.data
    item.progress(50, data.get("says", "half of it"))
    if "prints" in data:
        print(data["prints"])
    item.write(data.get("writes", ""))
    time.sleep(data.get("seconds", 0))
    deadline = time.monotonic() + 25
    while data.get("gate") and not Path(data["gate"]).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if item.attempt <= data.get("fail_until", 0):
        raise RuntimeError(
            f"attempt {item.attempt} fails, with {os.environ.get('SENDGRID_API_KEY', 'no key')}"
        )
    if data.get("final") and not (data.get("unless") and Path(data["unless"]).exists()):
        raise NonRetriable(data.get("says", "this can never work"))
    if data.get("after") and item.attempt == 1:
        raise RetryAfter("come back later", data["after"])
    _leave(item, "second")
    return {"n": item["first"]["n"] + 1, **({"says": data["says"]} if "says" in data else {})}


@step
def third(items: Sequence[Item]) -> list[dict[str, Any]]:
    return [{"n": item["second"]["n"], "size": len(items)} for item in items]


@function("test/steps", "test/also", max_batch=500, retry=quick)
def steps(run: Run) -> None:
    first(run)
    second(run)
    third(run)


@step
def outside(batch: Batch) -> Batch:
    """Fails outside of any step."""
    if any(item.event.data.get("explode") and item.attempt == 1 for item in batch.active_items()):
        raise RuntimeError("an error outside every step")
    return batch


breaking = function("test/breaking", name="breaking", max_batch=10, retry=quick)(outside)


@step
def swallow(item: Item) -> int:
    """Poisonous items kill the process."""
    if item.event.data.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    return item.attempt


swallowing = function("test/swallow", name="swallowing", max_batch=100, retry=quick)(swallow)


@function("test/napping", retry=quick)
def napping(run: Run) -> None:
    run.sleep("nap", lambda item: item.event.data.get("nap", 1.5))


@step
def mourn(item: Item) -> dict[str, Any]:
    data = item.event.data
    return {"of": data["event"]["id"], "message": data["error"]["message"]}


@function("test/calling", retry=quick, on_failure=mourn)
def calling(run: Run) -> None:
    run.invoke(
        "call",
        steps,
        lambda item: {"n": item.event.data["n"], "final": item.event.data.get("final", False)},
    )


@step
def alone(item: Item) -> list[float]:
    """Records when it begins and ends, so that overlaps show."""
    began = time.time()
    time.sleep(0.2)
    return [began, time.time()]


one_by_one = function(
    "test/narrow", name="one_by_one", max_batch=1, concurrency=Concurrency(1, key="data.tenant")
)(alone)


@step(threads=4)
def hang(item: Item) -> str:
    """Ends late or never, as the event's `how` says.

    "gil" holds the interpreter's lock, "wait" waits like a lock without a timeout.
    """
    _leave(item, "begun")
    data = item.event.data
    if data.get("how") == "gil":
        ctypes.PyDLL(None).sleep(int(data["seconds"]))
    elif data.get("how") == "wait" and item.attempt <= data.get("hang_until", 9):
        if data.get("ignores_signals"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Event().wait()
    else:
        time.sleep(data.get("seconds", 0))
    _leave(item, "done")
    return "done"


hanging = function("test/hanging", name="hanging", retry=quick, timeouts=Timeouts(step="3s"))(hang)
patient = function("test/patient", name="patient", retry=quick)(hang)


@resource
def slow(_: InitResourceContext) -> None:
    """Takes as many seconds to initialize as a file says."""
    told = Path(os.environ["RUNYARD_EFFECTS"]) / "slow"
    began = time.monotonic()
    while told.exists() and time.monotonic() - began < float(told.read_text()):
        time.sleep(0.1)


@step
def use(item: Item, slow: ResourceParam[Any]) -> str:
    return "used"


slowly = function("test/slow", name="slowly", retry=quick)(use)
hurried = function("test/hurried", name="hurried", retry=quick, timeouts=Timeouts(step="3s"))(use)
minutely = function(name="minutely", cron=Cron("* * * * *", timezone="Europe/Zurich"))(first)


# --- In the long form: every op in a process of its own, as on several hosts


@op
def first_apart(batch: Batch) -> Batch:
    return batch.map("first", first)


@op
def second_apart(batch: Batch) -> Batch:
    return batch.map("second", second, checkpoint_every=1)


@op
def third_apart(batch: Batch) -> Batch:
    return batch.map_batch("third", third)


@op
def nap_apart(batch: Batch) -> Batch:
    return batch.sleep("nap", lambda item: item.event.data.get("nap", 1.5))


@op
def ask_apart(batch: Batch) -> Batch:
    batch.send_events("ask", lambda item: Event("test/asked", {"key": item.event.data["key"]}))
    return batch.wait_for_event("answer", "test/answered", match="data.key", timeout="1m")


@op
def both(batch: Batch) -> Batch:
    return batch.map("both", lambda item: [item["answer"]["says"], item["nap"]])


@op
def hang_apart(batch: Batch) -> Batch:
    return batch.map("hang", hang, threads=4)


@job(executor_def=multiprocess_executor)
def spread() -> None:
    settle(third_apart(second_apart(first_apart(receive()))))


@job(executor_def=multiprocess_executor)
def dialog() -> None:
    """Two branches that wait."""
    batch = receive()
    settle(both(join([nap_apart(batch), ask_apart(batch)])))


@job(executor_def=multiprocess_executor)
def hanging_apart() -> None:
    settle(hang_apart(receive()))


spread_sensor = on_event("test/spread", job=spread, retry=quick)
dialog_sensor = on_event("test/dialog", job=dialog, retry=quick)
apart_sensor = on_event("test/apart", job=hanging_apart, retry=quick, timeouts=Timeouts(step="3s"))
