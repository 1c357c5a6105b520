"""The soak test's functions: many quick steps, steps of seconds, waits, and a limit.

The second version has another limit and another step.
"""

import time

from dagster import Definitions, in_process_executor, job, op

from benchmarks.soak.marks import folder, leave
from runyard import Batch, BatchIOManager, Concurrency, Item, on_event, receive, settle

PROBE = "soak/probe"
QUICK = "soak/quick"
SLOW = "soak/slow"
SUSPENDED = "soak/suspended"
LIMITED = "soak/limited"
ANSWERED = "soak/answered"
# The last step of each function.
LAST = {PROBE: "probed", QUICK: "counted", SLOW: "after", SUSPENDED: "behind", LIMITED: "limited"}
AT_ONCE = 2

_second_version = (folder() / "version").read_text() == "2"


def _do(step: str, item: Item, seconds: float) -> dict[str, int]:
    leave("begin", step, item.event.data["key"])
    time.sleep(seconds)
    leave("effect", step, item.event.data["key"])
    return {"version": 2 if _second_version else 1}


@op
def probe(batch: Batch) -> Batch:
    return batch.map("probed", lambda item: _do("probed", item, 0))


@op
def quick(batch: Batch) -> Batch:
    batch = batch.map("seen", lambda item: _do("seen", item, 0.005))
    if _second_version:
        batch = batch.map("weighed", lambda item: _do("weighed", item, 0.002), threads=4)
    return batch.map("counted", lambda item: _do("counted", item, 0.02), threads=4)


@op
def slow(batch: Batch) -> Batch:
    batch = batch.map(
        "slow",
        lambda item: _do("slow", item, item.event.data["seconds"]),
        threads=4,
        checkpoint_every=1,
    )
    return batch.map("after", lambda item: _do("after", item, 0.01))


@op
def suspended(batch: Batch) -> Batch:
    batch = batch.map("before", lambda item: _do("before", item, 0.01))
    batch = batch.wait_for_event("answer", ANSWERED, match="data.key", timeout="1h")
    batch = batch.sleep("nap", lambda item: item.event.data["nap"])
    return batch.map("behind", lambda item: _do("behind", item, 0.01))


@op
def limited(batch: Batch) -> Batch:
    return batch.map("limited", lambda item: _do("limited", item, 0.1), checkpoint_every=1)


@job(executor_def=in_process_executor)
def soak_probe() -> None:
    settle(probe(receive()))


@job(executor_def=in_process_executor)
def soak_quick() -> None:
    settle(quick(receive()))


@job(executor_def=in_process_executor)
def soak_slow() -> None:
    settle(slow(receive()))


@job(executor_def=in_process_executor)
def soak_suspended() -> None:
    settle(suspended(receive()))


@job(executor_def=in_process_executor)
def soak_limited() -> None:
    settle(limited(receive()))


_tenant = Concurrency(AT_ONCE, key="data.tenant")
defs = Definitions(
    jobs=[soak_probe, soak_quick, soak_slow, soak_suspended, soak_limited],
    sensors=[
        on_event(PROBE, job=soak_probe, max_batch=10),
        on_event(QUICK, job=soak_quick, max_batch=50),
        on_event(SLOW, job=soak_slow, max_batch=4, concurrency=Concurrency(8)),
        on_event(SUSPENDED, job=soak_suspended, max_batch=20),
        on_event(
            LIMITED,
            job=soak_limited,
            max_batch=2,
            concurrency=(_tenant, Concurrency(6)) if _second_version else _tenant,
        ),
    ],
    resources={"io_manager": BatchIOManager()},
)
