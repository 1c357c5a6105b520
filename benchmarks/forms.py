"""The light form of functions beside the long one: what a run costs, and how long they load."""

import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.installation import ROOT, installation
from benchmarks.machine import cpu_seconds
from benchmarks.one_function import run_events
from runyard.processes.stack import Stack

RUNS = 100
ROUNDS = 7
FUNCTIONS = 300
_FORMS = ("light", "long")
_LOAD = """
import time
began = time.perf_counter()
import benchmarks.many
benchmarks.many.defs.get_repository_def()
print(time.perf_counter() - began)
"""


def forms() -> dict[str, Any]:
    """The same function in both forms, in turns on one stack; and 300 functions loaded."""
    times: dict[str, list[tuple[float, float]]] = {form: [] for form in _FORMS}
    with installation("benchmarks.both_forms"), Stack(quiet=True):
        for form in _FORMS:
            _measured(form)  # a job's first runs are slower
        for number in range(ROUNDS):
            for form in _FORMS[:: 1 if number % 2 else -1]:
                times[form].append(_measured(form))
    medians = {form: _medians(times[form]) for form in _FORMS}
    return {
        **{f"{form}_cpu_ms_per_run": round(1000 * medians[form][0], 2) for form in _FORMS},
        **{f"{form}_ms_per_run": round(1000 * medians[form][1], 2) for form in _FORMS},
        "cpu_times_the_long_form": round(medians["light"][0] / medians["long"][0], 3),
        "times_the_long_form": round(medians["light"][1] / medians["long"][1], 3),
        f"load_{FUNCTIONS}_functions_s": round(_load_seconds(), 2),
    }


def _medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(cpu for cpu, _ in times), statistics.median(s for _, s in times)


def _measured(form: str) -> tuple[float, float]:
    """Return the CPU time of the stack for each run, database included, and the time it took."""
    before = cpu_seconds()
    rate = run_events(f"bench/{form}", f"bench_{form}", RUNS)
    return (cpu_seconds() - before) / RUNS, 1 / rate


def _load_seconds() -> float:
    """Load many functions in a new process, Dagster included."""
    variables = {**os.environ, "BENCH_FUNCTIONS": str(FUNCTIONS)}
    loaded = subprocess.run(
        [sys.executable, "-c", _LOAD],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(loaded.stdout)
