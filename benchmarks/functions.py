"""The functions under measurement: three trivial steps, in batches and in one run per event."""

from dagster import Definitions, in_process_executor, job, op

from runyard import Batch, BatchIOManager, on_event, receive, settle


@op
def first(batch: Batch) -> Batch:
    return batch.map("first", lambda item: {"n": item.event.data["n"] + 1})


@op
def second(batch: Batch) -> Batch:
    return batch.map("second", lambda item: {"n": item["first"]["n"] * 2})


@op
def third(batch: Batch) -> Batch:
    return batch.map("third", lambda item: {"n": item["second"]["n"] - 1})


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
