"""The trivial steps of the functions under measurement."""

from dagster import op

from runyard import Batch


@op
def first(batch: Batch) -> Batch:
    return batch.map("first", lambda item: {"n": item.event.data["n"] + 1})


@op
def second(batch: Batch) -> Batch:
    return batch.map("second", lambda item: {"n": item["first"]["n"] * 2})


@op
def third(batch: Batch) -> Batch:
    return batch.map("third", lambda item: {"n": item["second"]["n"] - 1})
