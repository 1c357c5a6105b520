"""How fast an application's functions run, and what runs that sleep or are slow hold meanwhile."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import psutil

from benchmarks.applications import bare_client
from benchmarks.applications.application import Application, application
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
_SAMPLE_SECONDS = 10
_GROUP = 100
_LIMIT_SECONDS = 180.0
_OPEN = "status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped')"

Result = dict[str, Any]


class Applications:
    """The benchmarks of one application: those of its stack, which they share.

    Parameters
    ----------
    app
        The application, running and registered.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    def burst(self, name: str = "called") -> Result:
        """Bursts of 500 and 2,000 events to a function of three steps; a bare client beside it."""
        url = f"{self._app.address}/{name}"
        self._burst(name, 200)
        bare_client.runs_per_s(url, name, 200)
        result: Result = {}
        for count in BURSTS:
            result |= {
                f"{measure}_of_{count}": value
                for measure, value in self._compared(name, url, count).items()
            }
        return result

    def burst_checkpointed(self) -> Result:
        """The same with the SDK's checkpoints, which need fewer calls where they are offered."""
        return self.burst("checkpointed")

    def latency(self, name: str = "called") -> Result:
        """Five events a second over HTTP: seconds from sending to the start of the first step."""
        self._burst(name, 20)
        self._app.clear()
        sent: dict[str, float] = {}
        began = time.monotonic()
        with _server() as server:
            for n in range(EVENTS_PER_S * LATENCY_SECONDS):
                time.sleep(max(0.0, began + n / EVENTS_PER_S - time.monotonic()))
                sent[str(n)] = time.time()
                _send(server, f"{name}/three", [n])
        self._wait(f"{name}_three")
        first = self._app.notes()["first"]
        assert first.keys() == sent.keys(), "an event is lost"
        return percentiles(first[n] / 1_000 - sent[n] for n in sent)

    def latency_checkpointed(self) -> Result:
        """The same with the SDK's checkpoints."""
        return self.latency("checkpointed")

    def slow_calls(self) -> Result:
        """Calls of 10 s, 500 at a time: seconds until all are done, with one worker."""
        self._app.clear()
        cpu = cpu_seconds()
        seconds = self._run("called", "slow", SLOW_CALLS)
        return {
            "all_done_s": round(seconds, 2),
            "most_at_a_time": self._app.notes()["most_open"],
            "cpu_s": round(cpu_seconds() - cpu, 1),
        }

    def suspended(self) -> Result:
        """A thousand runs that sleep or wait for an event: what they hold, and when they go on."""
        self._app.clear()
        half = SUSPENDED // 2
        before = _processes()
        began = time.monotonic()
        with _server() as server:
            _send(server, "called/asleep", range(half), ms=SLEEP_SECONDS * 1_000)
            _send(server, "called/waiting", range(half))
            while _suspended() < SUSPENDED:
                assert time.monotonic() - began < SLEEP_SECONDS - _SAMPLE_SECONDS, "too slow"
                time.sleep(0.1)
            all_s = time.monotonic() - began
            held = self._held(before)
            _send(server, "called/answer", range(half))
        answered = time.monotonic()
        self._wait("called_waiting")
        waits_s = time.monotonic() - answered
        self._wait("called_asleep")
        late = percentiles(ms / 1_000 for ms in self._app.notes()["late_ms"])
        return {
            "all_suspended_s": round(all_s, 1),
            **held,
            "all_answered_s": round(waits_s, 1),
            **{f"sleep_late_{share}": seconds for share, seconds in late.items()},
        }

    def _compared(self, name: str, url: str, count: int) -> Result:
        stack, app, began = cpu_seconds(), self._app.cpu_seconds(), time.monotonic()
        seconds = self._burst(name, count)
        stack, app = cpu_seconds() - stack, self._app.cpu_seconds() - app
        calls = self._app.notes()["calls"]
        began = time.monotonic()
        bare_cpu = self._app.cpu_seconds()
        bare = bare_client.runs_per_s(url, name, count)
        bare_cpu = self._app.cpu_seconds() - bare_cpu
        return {
            "events_per_s": round(count / seconds, 1),
            "bare_client_per_s": round(bare, 1),
            "share_of_bare_client": round(count / seconds / bare, 2),
            "calls_per_run": round(calls / count, 2),
            "app_cpu_s": round(app, 2),
            "app_cpu_s_bare": round(bare_cpu, 2),
            "stack_cpu_s": round(stack, 2),
            "app_share_of_cpu": round(app / (app + stack), 2),
        }

    def _burst(self, name: str, count: int) -> float:
        """Run the function with three steps; return the seconds, of which no step may be lost."""
        self._app.clear()
        seconds = self._run(name, "three", count)
        steps = self._app.notes()["steps"]
        assert steps == 3 * count, f"{steps} steps have run, of {3 * count}"
        return seconds

    def _run(self, name: str, function: str, count: int) -> float:
        """Send events and wait for their runs; return the seconds from first send to last end."""
        began = time.time()
        newest = number("SELECT coalesce(max(id), 0) FROM runyard.invocations")
        with _server() as server:
            _send(server, f"{name}/{function}", range(count))
        self._wait(f"{name}_{function}")
        [row] = rows(
            "SELECT count(*) FILTER (WHERE status = 'succeeded') AS succeeded,"
            " extract(epoch FROM max(finished_at))::float8 AS last"
            " FROM runyard.invocations WHERE id > %s",
            newest,
        )
        assert row["succeeded"] == count, f"{row['succeeded']} of {count} runs have succeeded"
        return float(row["last"]) - began

    def _wait(self, function: str) -> None:
        """Wait until a function has no open invocation."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while number(
            f"SELECT count(*) FROM runyard.invocations WHERE function = %s AND {_OPEN}", function
        ):
            assert time.monotonic() < deadline, f"{function} is not done in {_LIMIT_SECONDS:g} s"
            time.sleep(0.1)

    def _held(self, before: int) -> Result:
        """What the stack holds while all runs are suspended."""
        runs = number("SELECT count(*) FROM runyard.batches WHERE status IN ('claimed', 'running')")
        cpu, began = cpu_seconds(), time.monotonic()
        time.sleep(_SAMPLE_SECONDS)
        cpu, seconds = cpu_seconds() - cpu, time.monotonic() - began
        return {
            "runs_in_progress": runs,
            "open_calls": self._app.notes()["open"],
            "more_processes": _processes() - before,
            "percent_of_one_core": round(100 * cpu / seconds, 1),
        }


@contextmanager
def measured_application() -> Iterator[Applications]:
    """Start a stack, and an application that has registered its functions with it."""
    with installation("benchmarks.functions"), Stack(quiet=True), application() as app:
        yield Applications(app)


def _server() -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{settings().port}", timeout=30)


def _send(server: httpx.Client, name: str, numbers: Sequence[int], **data: Any) -> None:
    """Send an event for each number over HTTP, as the SDKs do, in groups."""
    for start in range(0, len(numbers), _GROUP):
        events = [{"name": name, "data": {"n": n, **data}} for n in numbers[start : start + _GROUP]]
        server.post("/e/bench", json=events).raise_for_status()


def _suspended() -> int:
    return number(
        "SELECT count(*) FROM runyard.invocations WHERE status IN ('sleeping', 'waiting')"
    )


def _processes() -> int:
    """How many processes the stack has, of which those of the database come and go."""
    data = str(settings().data)
    count = 0
    for process in psutil.process_iter():
        try:
            count += process.environ().get("RUNYARD_DATA_DIR") == data
        except psutil.Error:
            continue
    return count
