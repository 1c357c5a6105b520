"""The measurement of stock Dagster, which runs the code location `benchmarks.stock`."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.databases import other_databases
from benchmarks.installation import ROOT

RUNS = 10
_LIMIT_SECONDS = 240


def stock() -> dict[str, Any]:
    """Stock Dagster on the same server: default launcher and executor, one run per event."""
    folder = Path(tempfile.mkdtemp(prefix="stock-"))
    events = folder / "events"
    with other_databases(["stock"]) as urls:
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
            return _watch(urls["stock"], events)
        finally:
            os.killpg(daemon.pid, signal.SIGINT)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def _watch(url: str, events: Path) -> dict[str, Any]:
    with psycopg.connect(url, autocommit=True) as connection:

        def count(statement: str) -> int:
            row = connection.execute(statement.encode()).fetchone()
            return int(row[0]) if row else 0

        _until(lambda: count("SELECT count(*) FROM job_ticks") > 0, 90)
        events.write_text("".join(f"event-{number}\n" for number in range(RUNS)))
        began, began_at = time.monotonic(), datetime.now(UTC)
        _until(
            lambda: (
                count("SELECT count(*) FROM runs WHERE status IN ('SUCCESS', 'FAILURE')") == RUNS
            ),
            _LIMIT_SECONDS,
        )
        seconds = time.monotonic() - began
        done = count("SELECT count(*) FROM runs WHERE status = 'SUCCESS'")
        row = connection.execute(
            "SELECT min(timestamp) FROM event_logs WHERE dagster_event_type = 'STEP_START'"
        ).fetchone()
    assert done == RUNS, f"stock Dagster finished {done} of {RUNS} runs"
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
