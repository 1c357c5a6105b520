"""Functions for the tests: they fail, wait and leave traces as their events say."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from dagster import (
    InitResourceContext,
    in_process_executor,
    job,
    multiprocess_executor,
    op,
    resource,
)

from runyard import (
    Batch,
    Concurrency,
    Cron,
    Event,
    Item,
    NonRetriable,
    Retry,
    RetryAfter,
    Timeouts,
    join,
    on_event,
    receive,
    settle,
)


def _leave(item: Item, step: str) -> None:
    """Leave a line for each time a step ran for a key."""
    key = item.event.data.get("key")
    if key:
        with (Path(os.environ["RUNYARD_EFFECTS"]) / str(key)).open("a") as file:
            file.write(f"{step} {item.event.data.get('n', 0)} {item.attempt}\n")


def _first(item: Item) -> dict[str, Any]:
    _leave(item, "first")
    return {"n": item.event.data.get("n", 0)}


def _second(item: Item) -> dict[str, Any]:
    data = item.event.data
    item.progress(50, data.get("says", "half of it"))
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


@op
def first(batch: Batch) -> Batch:
    return batch.map("first", _first)


@op
def second(batch: Batch) -> Batch:
    return batch.map("second", _second, checkpoint_every=1)


@op
def third(batch: Batch) -> Batch:
    return batch.map_batch(
        "third", lambda items: [{"n": item["second"]["n"], "size": len(items)} for item in items]
    )


@op
def outside(batch: Batch) -> Batch:
    """Fails outside of any step."""
    if any(item.event.data.get("explode") and item.attempt == 1 for item in batch.active_items()):
        raise RuntimeError("an error outside every step")
    return batch


@job(executor_def=in_process_executor)
def steps() -> None:
    settle(third(second(first(receive()))))


@job(executor_def=in_process_executor)
def breaking() -> None:
    settle(outside(receive()))


@job(executor_def=multiprocess_executor)
def spread() -> None:
    """Runs every op in a separate process, as on several hosts."""
    settle(third(second(first(receive()))))


@op
def swallow(batch: Batch) -> Batch:
    """Poisonous items kill the process."""

    def do(item: Item) -> int:
        if item.event.data.get("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        return item.attempt

    return batch.map("swallow", do)


@op
def nap(batch: Batch) -> Batch:
    return batch.sleep("nap", lambda item: item.event.data.get("nap", 1.5))


@op
def ask(batch: Batch) -> Batch:
    batch.send_events("ask", lambda item: Event("test/asked", {"key": item.event.data["key"]}))
    return batch.wait_for_event("answer", "test/answered", match="data.key", timeout="1m")


@op
def both(batch: Batch) -> Batch:
    return batch.map("both", lambda item: [item["answer"]["says"], item["nap"]])


@op
def call(batch: Batch) -> Batch:
    return batch.invoke(
        "call",
        "steps",
        lambda item: {"n": item.event.data["n"], "final": item.event.data.get("final", False)},
    )


@op
def alone(batch: Batch) -> Batch:
    """Records when it begins and ends, so that overlaps show."""

    def do(item: Item) -> list[float]:
        began = time.time()
        time.sleep(0.2)
        return [began, time.time()]

    return batch.map("alone", do)


def _hang(item: Item) -> str:
    """Ends late or never, as the event's `how` says.

    "gil" holds the interpreter's lock, "wait" waits like a lock without a timeout.
    """
    _leave(item, "begun")
    data = item.event.data
    if data.get("how") == "gil":
        ctypes.PyDLL(None).sleep(int(data["seconds"]))
    elif data.get("how") == "wait" and item.attempt <= data.get("hang_until", 9):
        threading.Event().wait()
    else:
        time.sleep(data.get("seconds", 0))
    _leave(item, "done")
    return "done"


@op
def hang(batch: Batch) -> Batch:
    return batch.map("hang", _hang, threads=4)


@op
def mourn(batch: Batch) -> Batch:
    return batch.map(
        "mourn",
        lambda item: {
            "of": item.event.data["event"]["id"],
            "message": item.event.data["error"]["message"],
        },
    )


@job(executor_def=multiprocess_executor)
def dialog() -> None:
    """Two branches that wait, with each op in a separate process."""
    batch = receive()
    settle(both(join([nap(batch), ask(batch)])))


@job(executor_def=in_process_executor)
def swallowing() -> None:
    settle(swallow(receive()))


@job(executor_def=in_process_executor)
def napping() -> None:
    settle(nap(receive()))


@job(executor_def=in_process_executor)
def calling() -> None:
    settle(call(receive()))


@job(executor_def=in_process_executor)
def hanging() -> None:
    settle(hang(receive()))


@resource
def slow(_: InitResourceContext) -> None:
    """Takes as many seconds to initialize as a file says."""
    told = Path(os.environ["RUNYARD_EFFECTS"]) / "slow"
    began = time.monotonic()
    while told.exists() and time.monotonic() - began < float(told.read_text()):
        time.sleep(0.1)


@op(required_resource_keys={"slow"})
def use(batch: Batch) -> Batch:
    return batch.map("use", lambda item: "used")


@job(executor_def=in_process_executor, resource_defs={"slow": slow})
def slowly() -> None:
    settle(use(receive()))


@job(executor_def=multiprocess_executor)
def hanging_apart() -> None:
    settle(hang(receive()))


@job(executor_def=in_process_executor)
def one_by_one() -> None:
    settle(alone(receive()))


@job(executor_def=in_process_executor)
def mourning() -> None:
    settle(mourn(receive()))


@job(executor_def=in_process_executor)
def minutely() -> None:
    settle(first(receive()))


quick = Retry(attempts=3, delays=(0.3,), jitter=0)
steps_sensor = on_event("test/steps", "test/also", job=steps, max_batch=500, retry=quick)
spread_sensor = on_event("test/spread", job=spread, retry=quick)
breaking_sensor = on_event("test/breaking", job=breaking, max_batch=10, retry=quick)
dialog_sensor = on_event("test/dialog", job=dialog, retry=quick)
swallowing_sensor = on_event("test/swallow", job=swallowing, max_batch=100, retry=quick)
napping_sensor = on_event("test/napping", job=napping, retry=quick)
calling_sensor = on_event("test/calling", job=calling, retry=quick, on_failure=mourning)
one_by_one_sensor = on_event(
    "test/narrow", job=one_by_one, max_batch=1, concurrency=Concurrency(1, key="data.tenant")
)
hanging_sensor = on_event("test/hanging", job=hanging, retry=quick, timeouts=Timeouts(step="3s"))
patient_sensor = on_event("test/patient", job=hanging, name="patient", retry=quick)
apart_sensor = on_event("test/apart", job=hanging_apart, retry=quick, timeouts=Timeouts(step="3s"))
slowly_sensor = on_event("test/slow", job=slowly, retry=quick)
hurried_sensor = on_event(
    "test/hurried", job=slowly, name="hurried", retry=quick, timeouts=Timeouts(step="3s")
)
minutely_sensor = on_event(job=minutely, cron=Cron("* * * * *", timezone="Europe/Zurich"))
jobs = [
    steps,
    breaking,
    spread,
    dialog,
    swallowing,
    napping,
    calling,
    one_by_one,
    mourning,
    minutely,
    hanging,
    hanging_apart,
    slowly,
]
sensors = [
    steps_sensor,
    spread_sensor,
    breaking_sensor,
    dialog_sensor,
    swallowing_sensor,
    napping_sensor,
    calling_sensor,
    one_by_one_sensor,
    minutely_sensor,
    hanging_sensor,
    patient_sensor,
    apart_sensor,
    slowly_sensor,
    hurried_sensor,
]
schedules = minutely_sensor.schedules
