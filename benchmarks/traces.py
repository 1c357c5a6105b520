"""What traces cost: the same stack with and without them, a tenth of the traces sampled."""

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.installation import installation
from benchmarks.machine import cpu_seconds
from benchmarks.one_function import BURST, idle_percent, run_events
from runyard.processes.stack import Stack

ROUNDS = 2
BURSTS = 2
_COLLECTOR = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def traces() -> dict[str, Any]:
    """The stack without and with traces, in turns: bursts, their CPU time, and idle."""
    found: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    idle: dict[str, float] = {}
    with _collector() as url:
        variables = {
            "RUNYARD_TRACES": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        }
        for number in range(ROUNDS):
            for mode in ("off", "on")[:: 1 if number % 2 == 0 else -1]:
                more = variables if mode == "on" else {}
                with installation("benchmarks.functions", **more), Stack(quiet=True):
                    run_events("bench/batched", "bench_batched", 2000)
                    found[mode] += [_burst() for _ in range(BURSTS)]
                    if mode not in idle:
                        idle[mode] = idle_percent()
    medians = {
        mode: [statistics.median(values) for values in zip(*bursts, strict=True)]
        for mode, bursts in found.items()
    }
    return {
        **{f"events_per_s_{mode}": round(medians[mode][0]) for mode in found},
        **{f"cpu_us_per_event_{mode}": round(medians[mode][1]) for mode in found},
        **{f"idle_percent_{mode}": percent for mode, percent in idle.items()},
        "cpu_times_without": round(medians["on"][1] / medians["off"][1], 3),
        "time_times_without": round(medians["off"][0] / medians["on"][0], 3),
    }


def _burst() -> tuple[float, float]:
    """Events a second of a burst, and microseconds of CPU time of the stack for each event."""
    before = cpu_seconds()
    rate = run_events("bench/batched", "bench_batched", BURST)
    return rate, 1_000_000 * (cpu_seconds() - before) / BURST


@contextmanager
def _collector() -> Iterator[str]:
    """A collector that throws away what it gets, in a process of its own."""
    process = subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
