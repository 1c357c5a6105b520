"""The same load on Runyard and on other systems, each with a database of its own."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.databases import number, other_databases, rows, use
from benchmarks.event_names import event_name
from benchmarks.installation import installation
from benchmarks.peers import load
from benchmarks.peers.environments import make_environment, redis_server
from runyard import Event, send
from runyard.processes.stack import Stack
from runyard.store.embedded import start_embedded

Result = dict[str, Any]

_HERE = Path(__file__).parent
_LIMIT_SECONDS = 420


def runyard() -> Result:
    """Runyard's side of the comparison with other systems: fifty functions of three steps."""
    with (
        installation("benchmarks.many", BENCH_FUNCTIONS=str(load.FUNCTIONS), BENCH_STEPS="3"),
        Stack(quiet=True),
    ):
        return load.measure(Runyard())


@dataclass(frozen=True)
class Peer:
    """Another system: the adapter that measures it, and the pins of its environment."""

    adapter: str
    pins: str
    needs_redis: bool = False

    def measure(self) -> Result:
        """The same three-step job on another system, on the same PostgreSQL server or Redis."""
        with (
            tempfile.TemporaryDirectory(prefix="peer-") as folder,
            installation("benchmarks.many") as postgres,
        ):
            python = make_environment(Path(folder) / "environment", self.pins)
            use(start_embedded(postgres))
            with (
                other_databases(["peer"]) as urls,
                redis_server(Path(folder) / "redis")
                if self.needs_redis
                else nullcontext() as redis,
            ):
                return _run([python, _HERE / self.adapter], urls["peer"], redis)


PEERS = {
    "absurd": Peer("absurd.py", "absurd"),
    "celery": Peer("celery_redis.py", "celery", needs_redis=True),
    "procrastinate": Peer("procrastinate_jobs.py", "procrastinate"),
    "dbos": Peer("dbos_workflows.py", "dbos"),
}


class Runyard:
    """Runyard as the load sees it; the stack is running already."""

    settings = (
        "the stack with its defaults: one worker with RUNYARD_CONCURRENCY runs at a time (2 on 2"
        " cores), max_batch=500, LISTEN; sent in groups of 100"
    )

    def enqueue(self, jobs: Sequence[load.Job]) -> list[str]:
        return send([Event(event_name(function), data) for function, data in jobs])

    def finished(self) -> int:
        return number("SELECT count(*) FROM runyard.invocations WHERE status = 'succeeded'")

    def waited(self, ids: Sequence[str]) -> list[float]:
        return [
            float(row["s"])
            for row in rows(
                "SELECT extract(epoch FROM steps.started_at)::float8"
                " - (events.data->>'sent')::float8 AS s"
                " FROM runyard.events JOIN runyard.invocations ON event_id = events.id"
                " JOIN runyard.steps ON invocation_id = invocations.id AND step = 'first'"
                " WHERE events.id = ANY (%s)",
                list(ids),
            )
        ]


def _run(command: Sequence[str | Path], url: str, redis: Path | None) -> Result:
    """Run an adapter; return the JSON that it printed."""
    adapter = subprocess.Popen(
        command,
        env={"PATH": os.environ["PATH"], "PEER_URL": url, "PEER_REDIS": str(redis or "")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = adapter.communicate(timeout=_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"not done after {_LIMIT_SECONDS} s") from None
    finally:
        with suppress(ProcessLookupError):  # its workers too, should it not have stopped them
            os.killpg(adapter.pid, signal.SIGKILL)
    assert not adapter.returncode, (errors.strip().splitlines() or ["no error was printed"])[-1]
    result: Result = json.loads(output.splitlines()[-1])
    return result
