"""Many trivial functions, each with a job, an event and a sensor of its own.

BENCH_FUNCTIONS is their number (10 by default), BENCH_STEPS how many steps each has (2, at most 3),
BENCH_MAX_BATCH how many events a run of theirs takes at most (500).
"""

import os

from benchmarks.event_names import event_name
from benchmarks.steps import first, second, third
from runyard import Run, definitions, function

_STEPS = (first, second, third)[: int(os.environ.get("BENCH_STEPS", "2"))]
_FUNCTIONS = int(os.environ.get("BENCH_FUNCTIONS", "10"))
_MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "500"))


def _steps(run: Run) -> None:
    for step in _STEPS:
        step(run)


defs = definitions(
    *(
        function(event_name(number), name=f"bench_f{number:04}", max_batch=_MAX_BATCH)(_steps)
        for number in range(_FUNCTIONS)
    )
)
