"""The functions under measurement: three trivial steps, in batches and in one run per event."""

from dagster import Definitions, in_process_executor, job

from benchmarks.steps import first, second, third
from runyard import BatchIOManager, on_event, receive, settle


@job(executor_def=in_process_executor)
def bench_batched():
    settle(third(second(first(receive()))))


@job(executor_def=in_process_executor)
def bench_single():
    settle(third(second(first(receive()))))


defs = Definitions(
    jobs=[bench_batched, bench_single],
    sensors=[
        on_event("bench/batched", job=bench_batched, max_batch=2000),
        on_event("bench/single", job=bench_single, max_batch=1),
    ],
    resources={"io_manager": BatchIOManager()},
)
