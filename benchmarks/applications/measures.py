"""How fast an application's functions run, and what runs that sleep or are slow hold meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psutil

from benchmarks.applications import bare_client
from benchmarks.applications.application import NAMES, Application, application
from benchmarks.databases import number, rows
from benchmarks.installation import installation
from benchmarks.machine import cpu_seconds
from benchmarks.percentiles import percentiles
from runyard.processes.stack import Stack
from runyard.settings import settings

BURSTS = (500, 2_000)
EVENTS_PER_S = 5
LATENCY_SECONDS = 20
SLOW_CALLS = 500
SUSPENDED = 1_000
SLEEP_SECONDS = 45
_SAMPLE_SECONDS = 10.0
_SUSPEND_LIMIT_SECONDS = SLEEP_SECONDS - 2 * _SAMPLE_SECONDS
_WARM_UP = 200
_GROUP = 100
_LIMIT_SECONDS = 120.0

Result = dict[str, Any]


def app_burst() -> Result:
    """Bursts to an application's function of three steps: events a second, a bare client beside."""
    with _measured() as measured:
        return measured.bursts("called")


def app_burst_checkpointed() -> Result:
    """The same with the SDK's checkpoints: fewer calls a run, where the server offers them."""
    with _measured() as measured:
        return measured.bursts("checkpointed")


def app_latency() -> Result:
    """Five events a second over HTTP: seconds from sending to the start of the first step."""
    with _measured() as measured:
        return measured.latency("called")


def app_latency_checkpointed() -> Result:
    """The same with the SDK's checkpoints."""
    with _measured() as measured:
        return measured.latency("checkpointed")


def app_slow() -> Result:
    """500 calls of 10 s at a time with one worker: seconds until all are done."""
    with _measured() as measured:
        return measured.slow()


def app_suspended() -> Result:
    """A thousand runs that sleep or wait for an event: what they hold, and when they go on."""
    with _measured() as measured:
        return measured.suspended()


class _Measured:
    """A stack with an application that has registered, as it is measured."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def bursts(self, name: str) -> Result:
        """Bursts of each size, with a bare client before and after each of them."""
        url = f"{self._app.address}/{name}"
        bare_client.runs_per_s(url, name, _WARM_UP)
        result: Result = {}
        for count in BURSTS:
            compared = self._compared(name, url, count)
            result |= {f"{measure}_of_{count}": value for measure, value in compared.items()}
        return result

    def _compared(self, name: str, url: str, count: int) -> Result:
        bare, bare_cpu = self._bare(name, url, count)
        stack, app = cpu_seconds(), self._app.cpu_seconds()
        per_s = count / self.burst(name, count)
        stack, app = cpu_seconds() - stack, self._app.cpu_seconds() - app
        calls = self._app.notes()["calls"]
        bare_after, bare_cpu_after = self._bare(name, url, count)
        bare = 2 * count / (bare + bare_after)
        return {
            "events_per_s": round(per_s, 1),
            "bare_client_per_s": round(bare, 1),
            "share_of_bare_client": round(per_s / bare, 2),
            "calls_per_run": round(calls / count, 2),
            "app_cpu_ms_per_run": round(1_000 * app / count, 2),
            "app_cpu_ms_per_run_bare": round(500 * (bare_cpu + bare_cpu_after) / count, 2),
            "stack_cpu_ms_per_run": round(1_000 * stack / count, 2),
            "app_share_of_cpu": round(app / (app + stack), 2),
        }

    def _bare(self, name: str, url: str, count: int) -> tuple[float, float]:
        """Let a bare client make the same calls; return seconds, and CPU seconds of the app."""
        cpu = self._app.cpu_seconds()
        seconds = count / bare_client.runs_per_s(url, name, count)
        return seconds, self._app.cpu_seconds() - cpu

    def burst(self, name: str, count: int) -> float:
        """Run the function with three steps; return the seconds, of which no step may be lost."""
        self._app.clear()
        seconds = self._run(f"{name}/three", f"{name}_three", count)
        steps = self._app.notes()["steps"]
        assert steps == 3 * count, f"{steps} steps have run, of {3 * count}"
        return seconds

    def latency(self, name: str) -> Result:
        """From sending an event to the start of its first step, as the application notes it."""
        self._app.clear()
        sent: dict[str, float] = {}
        began = time.monotonic()
        with _server() as server:
            for n in range(EVENTS_PER_S * LATENCY_SECONDS):
                time.sleep(max(0.0, began + n / EVENTS_PER_S - time.monotonic()))
                sent[str(n)] = time.time()
                _send(server, f"{name}/three", [n])
        _wait(f"{name}_three")
        first = self._app.notes()["first"]
        assert first.keys() == sent.keys(), "an event is lost"
        return percentiles(first[n] / 1_000 - sent[n] for n in sent)

    def slow(self) -> Result:
        """Slow calls, all of them begun at once."""
        self._app.clear()
        cpu = cpu_seconds()
        seconds = self._run("called/slow", "called_slow", SLOW_CALLS)
        return {
            "all_done_s": round(seconds, 2),
            "most_at_a_time": self._app.notes()["most_open"],
            "stack_cpu_s": round(cpu_seconds() - cpu, 1),
        }

    def suspended(self) -> Result:
        """Half of the runs sleep, half wait for an event of their own."""
        self._app.clear()
        half = SUSPENDED // 2
        idle, processes = _percent_of_one_core(), _processes()
        began = time.monotonic()
        with _server() as server:
            _send(server, "called/asleep", range(half), ms=1_000 * SLEEP_SECONDS)
            _send(server, "called/waiting", range(half))
            while _count("sleeping", "waiting") < SUSPENDED:
                assert time.monotonic() - began < _SUSPEND_LIMIT_SECONDS, "they suspend too slowly"
                time.sleep(0.1)
            all_s = time.monotonic() - began
            held = {
                "runs_in_progress": _count_batches(),
                "open_calls": self._app.notes()["open"],
                "more_processes": _processes() - processes,
                "percent_of_one_core": _percent_of_one_core(),
                "percent_of_one_core_before": idle,
            }
            assert _count("sleeping", "waiting") == SUSPENDED, "some have gone on too early"
            due = _due("called_asleep")
            answered = time.monotonic()
            _send(server, "called/answer", range(half))
        _wait("called_waiting")
        answered_s = time.monotonic() - answered
        _wait("called_asleep")
        after = self._app.notes()["after"]
        assert after.keys() == due.keys(), "some have not gone on"
        late = percentiles(after[n] / 1_000 - due[n] for n in due)
        assert _count("failed") == 0, "some runs have failed"
        return {
            "all_suspended_s": round(all_s, 1),
            **held,
            "all_answered_s": round(answered_s, 1),
            **{f"sleep_late_{share}": seconds for share, seconds in late.items()},
        }

    def _run(self, event: str, function: str, count: int) -> float:
        """Send events and wait for their runs; return the seconds from first send to last end."""
        began = time.time()
        newest = number("SELECT coalesce(max(id), 0) FROM runyard.invocations")
        with _server() as server:
            _send(server, event, range(count))
        _wait(function)
        [row] = rows(
            "SELECT count(*) FILTER (WHERE status = 'succeeded') AS succeeded,"
            " extract(epoch FROM max(finished_at))::float8 AS last"
            " FROM runyard.invocations WHERE id > %s",
            newest,
        )
        assert row["succeeded"] == count, f"{row['succeeded']} of {count} runs have succeeded"
        return float(row["last"]) - began


@contextmanager
def _measured() -> Iterator[_Measured]:
    """Start a stack, and an application whose functions have run already."""
    with installation("benchmarks.functions"), Stack(quiet=True), application() as app:
        measured = _Measured(app)
        for name in NAMES:
            measured.burst(name, _WARM_UP)
        yield measured


def _server() -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{settings().port}", timeout=30)


def _send(server: httpx.Client, name: str, numbers: Sequence[int], **data: Any) -> None:
    """Send an event for each number over HTTP, as the SDKs do, in groups."""
    for start in range(0, len(numbers), _GROUP):
        events = [{"name": name, "data": {"n": n, **data}} for n in numbers[start : start + _GROUP]]
        server.post("/e/bench", json=events).raise_for_status()


def _wait(function: str) -> None:
    """Wait until a function has no open invocation."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while number(
        "SELECT count(*) FROM runyard.invocations WHERE function = %s"
        " AND status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')",
        function,
    ):
        assert time.monotonic() < deadline, f"{function} is not done after {_LIMIT_SECONDS:g} s"
        time.sleep(0.1)


def _due(function: str) -> dict[str, float]:
    """When the invocations that sleep are to go on, by the numbers of their events."""
    found = rows(
        "SELECT data->>'n' AS n, extract(epoch FROM due_at)::float8 AS due"
        " FROM runyard.invocations JOIN runyard.events ON events.id = event_id"
        " WHERE function = %s AND status = 'sleeping'",
        function,
    )
    return {row["n"]: float(row["due"]) for row in found}


def _count(*statuses: str) -> int:
    return number(
        "SELECT count(*) FROM runyard.invocations WHERE status = ANY (%s)", list(statuses)
    )


def _count_batches() -> int:
    return number("SELECT count(*) FROM runyard.batches WHERE status IN ('claimed', 'running')")


def _percent_of_one_core() -> float:
    """CPU usage of the stack for a while, database included."""
    cpu, began = cpu_seconds(), time.monotonic()
    time.sleep(_SAMPLE_SECONDS)
    return round(100 * (cpu_seconds() - cpu) / (time.monotonic() - began), 1)


def _processes() -> int:
    """How many processes the stack has, without those of the database."""
    data = str(settings().data)
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            count += process.environ().get("RUNYARD_DATA_DIR") == data
    return count
