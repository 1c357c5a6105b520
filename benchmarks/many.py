"""Many trivial functions, each with a job, an event and a sensor of its own.

BENCH_FUNCTIONS is their number (10 by default), BENCH_STEPS how many steps each has (2, at most 3).
"""

import os

from dagster import Definitions, JobDefinition, in_process_executor, job

from benchmarks.event_names import event_name
from benchmarks.steps import first, second, third
from runyard import BatchIOManager, on_event, receive, settle

_STEPS = int(os.environ.get("BENCH_STEPS", "2"))
_FUNCTIONS = int(os.environ.get("BENCH_FUNCTIONS", "10"))


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
