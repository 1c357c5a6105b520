"""All benchmarks in one call: `make bench`. Prints a table and writes benchmarks/results/*.json.

Arguments select benchmarks by name: idle, latency, single, burst, ingest, mix10, mix100, mix1000,
load20, load50, load200, forms, traces, claim, flow, admission, stock, pages, media, analytics,
keep, sync, app_burst, app_burst_checkpointed, app_latency, app_latency_checkpointed, app_slow,
app_suspended.
`mix` stands for those with many functions (mix10 to load200), `app` for those whose functions an
application in Node serves. These run only when they are named:

- `peers`, for runyard, absurd, celery, procrastinate and dbos: they install other systems.
- `scaling`, for workers, workers_batched, launches, commits, table_size and partitions: they take
  minutes each, root and Redis (the first three), or 10 GB of disk (table_size).
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.applications.measures import (
    app_burst,
    app_burst_checkpointed,
    app_latency,
    app_latency_checkpointed,
    app_slow,
    app_suspended,
)
from benchmarks.claim import claim
from benchmarks.commits import commits
from benchmarks.databases import use
from benchmarks.families import analytics, keep, media, sync
from benchmarks.flow import admission, flow
from benchmarks.forms import forms
from benchmarks.ingest import ingest
from benchmarks.installation import ROOT, installation
from benchmarks.launches import launches
from benchmarks.machine import machine
from benchmarks.mix import MIXES
from benchmarks.one_function import burst, idle, latency, single
from benchmarks.pages import pages
from benchmarks.partitions import partitions
from benchmarks.peers.compare import PEERS, runyard
from benchmarks.stock_dagster import stock
from benchmarks.table_size import table_size
from benchmarks.targets import add_ratios, print_table
from benchmarks.traces import traces
from benchmarks.workers import FORMS
from runyard.errors import RunyardError
from runyard.processes.stack import Stack
from runyard.store.embedded import start_embedded

Result = dict[str, Any]
Benchmarks = dict[str, Callable[[], Result]]

WITH_STACK: Benchmarks = {
    "idle": idle,
    "latency": latency,
    "single": single,
    "burst": burst,
    "ingest": ingest,
}
WITH_DATABASE: Benchmarks = {
    "claim": claim,
    "flow": flow,
    "admission": admission,
    "stock": stock,
    "pages": pages,
    "media": media,
    "analytics": analytics,
    "keep": keep,
    "sync": sync,
    "commits": commits,
    "table_size": table_size,
    "partitions": partitions,
}
APP: Benchmarks = {
    "app_burst": app_burst,
    "app_burst_checkpointed": app_burst_checkpointed,
    "app_latency": app_latency,
    "app_latency_checkpointed": app_latency_checkpointed,
    "app_slow": app_slow,
    "app_suspended": app_suspended,
}
# Each starts stacks of its own.
ALONE: Benchmarks = {
    **{name: mix.measure for name, mix in MIXES.items()},
    **APP,
    "forms": forms,
    "traces": traces,
    **{name: form.measure for name, form in FORMS.items()},
    "launches": launches,
    "runyard": runyard,
    **{name: peer.measure for name, peer in PEERS.items()},
}
GROUPS = {
    "mix": list(MIXES),
    "app": list(APP),
    "peers": ["runyard", *PEERS],
    "scaling": [*FORMS, "launches", "commits", "table_size", "partitions"],
}
_WHEN_NAMED = {name for group in ("peers", "scaling") for name in GROUPS[group]}


def main(arguments: Sequence[str]) -> int:
    """Run the selected benchmarks, or all; return 1 when one misses its target, 2 for a typo."""
    known = {**WITH_STACK, **ALONE, **WITH_DATABASE}
    chosen = {name for argument in arguments for name in GROUPS.get(argument, [argument])}
    if unknown := chosen - known.keys():
        print(
            f"no benchmark: {', '.join(sorted(unknown))}; there are {', '.join([*known, *GROUPS])}"
        )
        return 2
    chosen = chosen or known.keys() - _WHEN_NAMED
    results: dict[str, Result] = {}
    try:
        with installation("benchmarks.functions") as postgres:
            if chosen & WITH_STACK.keys():
                with Stack(quiet=True):
                    _measure(WITH_STACK, chosen, results)
            if chosen & WITH_DATABASE.keys():
                use(start_embedded(postgres))
                _measure(WITH_DATABASE, chosen, results)
        _measure(ALONE, chosen, results)
    finally:
        add_ratios(results)
        _write(results)  # including what was measured before an interrupt
    return 1 if print_table(results) else 0


def _measure(benchmarks: Benchmarks, chosen: set[str], results: dict[str, Result]) -> None:
    for name, benchmark in benchmarks.items():
        if name in chosen:
            print(f"measuring {name}: {(benchmark.__doc__ or '').splitlines()[0]}", flush=True)
            try:
                results[name] = benchmark()
            except (AssertionError, RunyardError) as error:
                results[name] = {"failed": str(error)}


def _write(results: dict[str, Result]) -> None:
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    path.write_text(
        json.dumps(
            {
                "at": datetime.now(UTC).isoformat(),
                "load_average": os.getloadavg(),
                "machine": machine(),
                "results": results,
            },
            indent=2,
        )
        + "\n"
    )
    print(f"\nwritten to {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
