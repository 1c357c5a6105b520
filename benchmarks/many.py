"""Many trivial functions, each with a job, an event and a sensor of its own.

BENCH_FUNCTIONS is their number (10 by default), BENCH_STEPS how many steps each has (2, at most 3).
"""

import os

from dagster import Definitions, JobDefinition, in_process_executor, job, op

from benchmarks.event_names import event_name
from runyard import Batch, BatchIOManager, on_event, receive, settle

_STEPS = int(os.environ.get("BENCH_STEPS", "2"))
_FUNCTIONS = int(os.environ.get("BENCH_FUNCTIONS", "10"))


@op
def first(batch: Batch) -> Batch:
    return batch.map("first", lambda item: {"n": item.event.data["n"] + 1})


@op
def second(batch: Batch) -> Batch:
    return batch.map("second", lambda item: {"n": item["first"]["n"] * 2})


@op
def third(batch: Batch) -> Batch:
    return batch.map("third", lambda item: {"n": item["second"]["n"] - 1})


def _job(number: int) -> JobDefinition:
    @job(name=f"bench_f{number:04}", executor_def=in_process_executor)
    def steps():
        batch = receive()
        for step in (first, second, third)[:_STEPS]:
            batch = step(batch)
        settle(batch)

    return steps


_jobs = [_job(number) for number in range(_FUNCTIONS)]
defs = Definitions(
    jobs=_jobs,
    sensors=[on_event(event_name(number), job=job) for number, job in enumerate(_jobs)],
    resources={"io_manager": BatchIOManager()},
)
