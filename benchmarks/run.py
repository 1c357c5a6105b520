"""All benchmarks in one call: `make bench`. Prints a table and writes benchmarks/results/*.json.

Arguments select benchmarks by name: idle, latency, single, burst, ingest, claim, flow, stock,
pages, media, analytics, keep, sync.
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.families import analytics, keep, media, sync
from benchmarks.flow import flow
from benchmarks.ingest import ingest
from benchmarks.machine import cpu_seconds, machine
from benchmarks.pages import pages
from runyard import Event, send
from runyard.events import new_ulid
from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.processes.migrate import migrate
from runyard.processes.stack import Stack
from runyard.settings import settings
from runyard.store import database
from runyard.store.embedded import delete_embedded, start_embedded
from runyard.store.queries import fetch_one

ROOT = Path(__file__).resolve().parent.parent
BURST = 20_000
SINGLES = 150
LATENCY_EVENTS = 60
IDLE_SECONDS = 30
STOCK_RUNS = 10
STOCK_LIMIT_SECONDS = 240
CLAIM_ROUNDS = 9

Result = dict[str, Any]


def idle() -> Result:
    """CPU usage of the idle stack, database included: percent of one core."""
    time.sleep(10)
    before = cpu_seconds(str(settings().data))
    time.sleep(IDLE_SECONDS)
    return {
        "percent_of_one_core": round(
            100 * (cpu_seconds(str(settings().data)) - before) / IDLE_SECONDS, 2
        )
    }


def latency() -> Result:
    """One event a second: seconds from its INSERT to the first line of its first op."""
    ids: list[str] = []
    for _ in range(LATENCY_EVENTS):
        began = time.monotonic()
        ids += send("bench/single", {"n": 1})
        time.sleep(max(0.0, 1 - (time.monotonic() - began)))
    _wait("bench_single")
    seconds = sorted(
        float(row["s"])
        for row in _rows(
            "SELECT extract(epoch FROM steps.started_at - events.received_at)::float8 AS s"
            " FROM runyard.events JOIN runyard.invocations ON event_id = events.id"
            " JOIN runyard.steps ON invocation_id = invocations.id AND step = 'first'"
            " WHERE events.id = ANY (%s)",
            ids,
        )
    )
    assert len(seconds) == LATENCY_EVENTS, "an event is lost"
    return {
        name: round(seconds[min(len(seconds) - 1, int(len(seconds) * share))], 3)
        for name, share in (("p50_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99))
    }


def single() -> Result:
    """One run per event, with three checkpointed steps: runs a second, all results counted."""
    return {
        "runs_per_s": round(_burst("bench/single", "bench_single", SINGLES), 2),
        "runs": SINGLES,
    }


def burst() -> Result:
    """A burst in batches, with three checkpointed steps: events a second end to end.

    All results are counted in the table.
    """
    _burst("bench/batched", "bench_batched", 2000)
    return {"events_per_s": round(_burst("bench/batched", "bench_batched", BURST)), "events": BURST}


def _burst(name: str, function: str, count: int) -> float:
    before = _completed_steps()
    began = time.monotonic()
    for start in range(0, count, 500):
        send([Event(name, {"n": number}) for number in range(start, min(count, start + 500))])
    _wait(function)
    seconds = time.monotonic() - began
    completed = _completed_steps() - before
    assert completed == 3 * count, f"{completed} of {3 * count} step results are in the table"
    return count / seconds


def _completed_steps() -> int:
    [row] = _rows("SELECT count(*) AS n FROM runyard.steps WHERE output IS NOT NULL")
    return int(row["n"])


def _wait(function: str, seconds: float = 180) -> None:
    """Wait until a function has no open invocation.

    The queries are cheap, so that polling does not slow down what is measured.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        queued = _rows(
            "SELECT 1 AS n FROM runyard.invocations WHERE function = %s"
            " AND status = 'queued' LIMIT 1",
            function,
        )
        if not queued and not _rows(
            "SELECT 1 AS n FROM runyard.batches WHERE status IN ('claimed', 'running')"
            " AND function = %s LIMIT 1",
            function,
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"{function} is not done after {seconds} s")


def claim() -> Result:
    """A claim of 500 among 10^4 and 10^6 finished invocations: milliseconds, and the ratio."""
    names = {"claim_small": 10_000, "claim_large": 1_000_000}
    function = Function("claimed", "claimed_job", ("bench/claimed",), max_batch=500)
    times: dict[str, list[float]] = {name: [] for name in names}
    with _other_databases(list(names)) as urls:
        for name, rows in names.items():
            with _using(urls[name]):
                _fill(function, rows)
        for _ in range(CLAIM_ROUNDS):
            for name in names:
                with _using(urls[name]):
                    _claim_once(function)  # A connection's first is not measured.
                    times[name].append(_claim_once(function))
    small, large = (statistics.median(times[name]) * 1000 for name in names)
    return {
        "among_1e4_ms": round(small, 2),
        "among_1e6_ms": round(large, 2),
        "ratio": round(large / small, 2),
    }


def _fill(function: Function, rows: int) -> None:
    registry._functions = {function.name: function}
    migrate()
    registry.publish()
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, finished_at)"
            " SELECT lpad(n::text, 26, '0'), 'claimed', 'succeeded', now()"
            " FROM generate_series(1, %s) AS n",
            (rows,),
        )
    for _ in range(2 * CLAIM_ROUNDS):
        send([Event("bench/claimed", {"n": n}) for n in range(600)])
    with database.connection() as connection:
        connection.execute("VACUUM ANALYZE runyard.invocations")


def _claim_once(function: Function) -> float:
    _rows(
        "UPDATE runyard.batches SET status = 'finished' WHERE status = 'claimed' RETURNING 1 AS n"
    )
    with database.connection() as connection:
        began = time.perf_counter()
        row = fetch_one(
            connection, "claim", function=function.name, max_batch=500, batch=new_ulid()
        )
        seconds = time.perf_counter() - began
    assert row is not None
    assert row["size"] == 500
    return seconds


def stock() -> Result:
    """Stock Dagster on the same server: default launcher and executor, one run per event."""
    folder = Path(tempfile.mkdtemp(prefix="stock-"))
    events = folder / "events"
    with _other_databases(["stock"]) as urls:
        (folder / "dagster.yaml").write_text(
            "storage:\n  postgres:\n    postgres_url:\n      env: STOCK_URL\n"
            "telemetry:\n  enabled: false\n"
        )
        variables = {
            **os.environ,
            "DAGSTER_HOME": str(folder),
            "STOCK_URL": urls["stock"],
            "STOCK_EVENTS": str(events),
        }
        subprocess.run(
            [sys.executable, "-c", "from dagster import DagsterInstance; DagsterInstance.get()"],
            env=variables,
            check=True,
            cwd=ROOT,
        )
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "-m", "benchmarks.stock"],
            env=variables,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return _watch_stock(urls["stock"], events)
        finally:
            os.killpg(daemon.pid, signal.SIGINT)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def _watch_stock(url: str, events: Path) -> Result:
    with psycopg.connect(url, autocommit=True) as connection:

        def count(statement: str) -> int:
            row = connection.execute(statement.encode()).fetchone()
            return int(row[0]) if row else 0

        _until(lambda: count("SELECT count(*) FROM job_ticks") > 0, 90)
        events.write_text("".join(f"event-{number}\n" for number in range(STOCK_RUNS)))
        began, began_at = time.monotonic(), datetime.now(UTC)
        _until(
            lambda: (
                count("SELECT count(*) FROM runs WHERE status IN ('SUCCESS', 'FAILURE')")
                == STOCK_RUNS
            ),
            STOCK_LIMIT_SECONDS,
        )
        seconds = time.monotonic() - began
        done = count("SELECT count(*) FROM runs WHERE status = 'SUCCESS'")
        row = connection.execute(
            "SELECT min(timestamp) FROM event_logs WHERE dagster_event_type = 'STEP_START'"
        ).fetchone()
    assert done == STOCK_RUNS, f"stock Dagster finished {done} of {STOCK_RUNS} runs"
    assert row is not None
    assert row[0] is not None
    return {
        "runs_per_s": round(done / seconds, 3),
        "runs": done,
        "first_op_s": round((row[0].replace(tzinfo=UTC) - began_at).total_seconds(), 1),
    }


def _until(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)


class _other_databases:
    """Create databases beside the stack's, and drop them afterwards; gives their URLs by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._server = database.database_url()

    def __enter__(self) -> dict[str, str]:
        with psycopg.connect(self._server, autocommit=True) as connection:
            for name in self._names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
                connection.execute(f"CREATE DATABASE {name}".encode())
        return {name: self._server.replace("/runyard?", f"/{name}?") for name in self._names}

    def __exit__(self, *_: object) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            for name in self._names:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


class _using:
    """Let this process use another database for a while."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        self._before = os.environ["DATABASE_URL"]
        self._switch(self._url)

    def __exit__(self, *_: object) -> None:
        self._switch(self._before)

    @staticmethod
    def _switch(url: str) -> None:
        database.close_pool()
        os.environ["DATABASE_URL"] = url
        settings.cache_clear()


def _rows(statement: str, *parameters: object) -> list[dict[str, Any]]:
    with database.connection() as connection:
        return [
            dict(row)
            for row in connection.execute(statement.encode(), parameters or None).fetchall()
        ]


WITH_STACK: dict[str, Callable[[], Result]] = {
    "idle": idle,
    "latency": latency,
    "single": single,
    "burst": burst,
    "ingest": ingest,
}
ALONE: dict[str, Callable[[], Result]] = {
    "claim": claim,
    "flow": flow,
    "stock": stock,
    "pages": pages,
    "media": media,
    "analytics": analytics,
    "keep": keep,
    "sync": sync,
}
# The project's targets, on 2 cores with the embedded database.
TARGETS: dict[tuple[str, str], tuple[str, float]] = {
    ("idle", "percent_of_one_core"): ("<", 5),
    ("latency", "p50_s"): ("<", 0.5),
    ("latency", "p99_s"): ("<", 1.5),
    ("single", "runs_per_s"): (">", 5),
    ("burst", "events_per_s"): (">", 2000),
    ("claim", "ratio"): ("<", 1.3),
    ("flow", "by_tenant_ratio"): ("<", 2),
    ("flow", "limits_ratio"): ("<", 2),
    ("single", "times_stock_dagster"): (">", 30),
    ("ingest", "single_requests_per_s"): (">", 2000),
    ("ingest", "events_per_s_in_arrays_of_100"): (">", 20_000),
    ("pages", "first_page_ms"): ("<", 200),
    ("analytics", "seconds_for_1e6_events"): ("<", 10),
    ("media", "times_plain_pillow"): (">", 1),
    ("keep", "growth_after_retention"): ("<", 1.1),
    ("sync", "most_memory_mb"): ("<", 700),
}


def main(chosen: Sequence[str]) -> int:
    """Run the selected benchmarks, or all; return 1 when one misses its target."""
    folder, postgres = (
        Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")) for prefix in ("ryb-", "rybp-")
    )
    os.environ.update(
        DAGSTER_HOME=str(ROOT),
        RUNYARD_HOME=str(ROOT),
        RUNYARD_DATA_DIR=str(folder),
        RUNYARD_POSTGRES_DIR=str(postgres),
        RUNYARD_CODE="benchmarks.functions",
        RUNYARD_PORT="8299",
    )
    os.environ.pop("DATABASE_URL", None)
    settings.cache_clear()
    results: dict[str, Result] = {}
    try:
        if not chosen or set(chosen) & WITH_STACK.keys():
            with Stack(quiet=True):
                _measure(WITH_STACK, chosen, results)
        os.environ["DATABASE_URL"] = start_embedded(postgres)
        settings.cache_clear()
        _measure(ALONE, chosen, results)
    finally:
        database.close_pool()
        delete_embedded(postgres)
        shutil.rmtree(folder, ignore_errors=True)
        if "single" in results and "stock" in results:
            results["single"]["times_stock_dagster"] = round(
                results["single"]["runs_per_s"] / results["stock"]["runs_per_s"], 1
            )
        _write(results)  # including what was measured before a failure
    return _print(results)


def _measure(
    benchmarks: dict[str, Callable[[], Result]], chosen: Sequence[str], results: dict[str, Result]
) -> None:
    for name, benchmark in benchmarks.items():
        if not chosen or name in chosen:
            print(f"measuring {name}: {(benchmark.__doc__ or '').splitlines()[0]}", flush=True)
            results[name] = benchmark()


def _write(results: dict[str, Result]) -> None:
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.json"
    path.write_text(
        json.dumps(
            {"at": datetime.now(UTC).isoformat(), "machine": machine(), "results": results},
            indent=2,
        )
        + "\n"
    )
    print(f"\nwritten to {path.relative_to(ROOT)}\n")


def _print(results: dict[str, Result]) -> int:
    missed = 0
    print(f"{'benchmark':<10} {'measure':<32} {'result':>12}   target")
    for name, result in results.items():
        for measure, value in result.items():
            sign, bound = TARGETS.get((name, measure), ("", 0.0))
            ok = not sign or (value < bound if sign == "<" else value > bound)
            missed += not ok
            target = f"{sign} {bound:g}{'' if ok else '  MISSED'}" if sign else ""
            print(f"{name:<10} {measure:<32} {value:>12}   {target}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
