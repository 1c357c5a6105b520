"""The same work on stock Dagster: three trivial ops, one run per event, started by a sensor."""

import os
from pathlib import Path

from dagster import (
    DefaultSensorStatus,
    Definitions,
    RunRequest,
    SensorEvaluationContext,
    SkipReason,
    job,
    op,
    sensor,
)


@op
def first() -> int:
    return 1


@op
def second(n: int) -> int:
    return n * 2


@op
def third(n: int) -> int:
    return n - 1


@job
def stock_steps():
    third(second(first()))


@sensor(job=stock_steps, default_status=DefaultSensorStatus.RUNNING, minimum_interval_seconds=1)
def stock_sensor(context: SensorEvaluationContext):
    """Request a run for each event, which is a line of the file."""
    path = Path(os.environ["STOCK_EVENTS"])
    lines = path.read_text().splitlines() if path.exists() else []
    done = int(context.cursor or 0)
    if len(lines) == done:
        yield SkipReason("nothing new")
        return
    for line in lines[done:]:
        yield RunRequest(run_key=line)
    context.update_cursor(str(len(lines)))


defs = Definitions(jobs=[stock_steps], sensors=[stock_sensor])
