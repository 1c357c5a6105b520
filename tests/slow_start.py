"""A code location with one function, whose resource is not created before a file is there."""

import os
import time
from pathlib import Path

from dagster import Definitions, in_process_executor, job, op, resource

from runyard import Batch, BatchIOManager, on_event, receive, settle

GATE = "TESTS_GATE"


@resource
def gated(_: object) -> str:
    """Wait for the file that TESTS_GATE names."""
    while not Path(os.environ[GATE]).exists():
        time.sleep(0.05)
    return "open"


@op(required_resource_keys={"gated"})
def greet(batch: Batch) -> Batch:
    """Do nothing."""
    return batch


@job(executor_def=in_process_executor)
def slow_start() -> None:
    """Greet, with a resource that takes long to create."""
    settle(greet(receive()))


defs = Definitions(
    jobs=[slow_start],
    sensors=[on_event("test/slow_start", job=slow_start)],
    resources={"gated": gated, "io_manager": BatchIOManager()},
)
