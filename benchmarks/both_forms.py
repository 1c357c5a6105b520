"""The same function twice: in the light form, and in the long one, as Dagster's own op and job."""

from dagster import Definitions, in_process_executor, job, op

from benchmarks.steps import three_steps
from runyard import Batch, definitions, function, on_event, receive, settle


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
def bench_long():
    settle(third(second(first(receive()))))


light = function("bench/light", name="bench_light", max_batch=1)(three_steps)
long = on_event("bench/long", job=bench_long, max_batch=1)

defs: Definitions = definitions(light, long)
