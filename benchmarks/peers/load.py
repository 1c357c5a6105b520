"""The same load on every system: a burst of one function, a mix of fifty, one job a second.

This module needs the standard library only, because it runs in the environment of each system. A
job has three steps, and the result of each is kept:

    {"n": 1, "sent": T} -> {"n": 2, "waited": W} -> {"n": 4, "waited": W} -> {"n": 3, "waited": W}

where W is how many seconds after T the first step began.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

FUNCTIONS = 50
WORKERS = 2
LATENCY_JOBS = 30
GROUP = 100
_FIRST_JOBS = 200
_MOST_JOBS = 100_000
_BURST_SECONDS = 15
_SHORTEST_SECONDS = 10
_LIMIT_SECONDS = 120
_SEED = 17

Job = tuple[int, dict[str, Any]]


class Peer(Protocol):
    """A system under measurement, from the side of the application that gives it jobs."""

    settings: str

    def enqueue(self, jobs: Sequence[Job]) -> list[str]:
        """Enqueue jobs, each for a function by its number; return their ids."""

    def finished(self) -> int:
        """How many jobs have finished so far."""

    def waited(self, ids: Sequence[str]) -> list[float]:
        """How many seconds after they were sent the first steps of finished jobs began."""


def first(data: dict[str, Any]) -> dict[str, Any]:
    return {"n": data["n"] + 1, "waited": time.time() - data["sent"]}


def second(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "n": data["n"] * 2}


def third(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "n": data["n"] - 1}


def measure(peer: Peer) -> dict[str, Any]:
    """Jobs a second in a burst of one function and in a mix, then latency at one job a second."""
    choose = random.Random(_SEED)

    def of_one() -> int:
        return 0

    def of_all() -> int:
        return choose.randrange(FUNCTIONS)

    _run(peer, 4 * FUNCTIONS, of_all)  # Everything is loaded and connected by then.
    burst, burst_jobs = _rate(peer, of_one)
    mix, mix_jobs = _rate(peer, of_all)
    return {
        "burst_jobs_per_s": burst,
        "burst_jobs": burst_jobs,
        "mix_jobs_per_s": mix,
        "mix_jobs": mix_jobs,
        **_latency(peer, of_all),
        "settings": peer.settings,
    }


def _rate(peer: Peer, choose: Callable[[], int]) -> tuple[float, int]:
    """Jobs a second, in a burst so large that it takes its system about 15 s."""
    jobs = _FIRST_JOBS
    while (seconds := _run(peer, jobs, choose)) < _SHORTEST_SECONDS and jobs < _MOST_JOBS:
        jobs = min(_MOST_JOBS, round(jobs / seconds * _BURST_SECONDS))
    return round(jobs / seconds, 1), jobs


def _run(peer: Peer, jobs: int, choose: Callable[[], int]) -> float:
    """Enqueue jobs as fast as possible; return the seconds until all have finished."""
    before, began = peer.finished(), time.monotonic()
    for start in range(0, jobs, GROUP):
        peer.enqueue(
            [
                (choose(), {"n": n, "sent": time.time()})
                for n in range(start, min(jobs, start + GROUP))
            ]
        )
    _wait(peer, before + jobs)
    return time.monotonic() - began


def _wait(peer: Peer, finished: int) -> None:
    """Wait until so many jobs have finished; counting them takes a tenth of the time at most."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        began = time.monotonic()
        done = peer.finished()
        assert done <= finished, f"{done - finished} jobs finished twice"
        if done == finished:
            return
        assert began < deadline, f"{finished - done} jobs are not done after {_LIMIT_SECONDS} s"
        time.sleep(max(0.02, 10 * (time.monotonic() - began)))


def _latency(peer: Peer, choose: Callable[[], int]) -> dict[str, float]:
    before, began = peer.finished(), time.monotonic()
    ids: list[str] = []
    for n in range(LATENCY_JOBS):
        time.sleep(max(0.0, began + n - time.monotonic()))
        ids += peer.enqueue([(choose(), {"n": n, "sent": time.time()})])
    _wait(peer, before + LATENCY_JOBS)
    waited = sorted(peer.waited(ids))
    assert len(waited) == LATENCY_JOBS, f"{len(waited)} of {LATENCY_JOBS} jobs have a result"
    return {
        "p50_s": round(waited[LATENCY_JOBS // 2], 3),
        "p99_s": round(waited[int(LATENCY_JOBS * 0.99)], 3),
    }


def main(connect: Callable[[], Peer], work: Callable[[], None], processes: int = WORKERS) -> None:
    """Run an adapter: as one of its workers, or as the application that measures them."""
    if sys.argv[1:] == ["work"]:
        work()
        return
    peer = connect()
    with _workers(processes):
        result = measure(peer)
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # The threads of some clients do not end by themselves.


@contextmanager
def _workers(processes: int) -> Iterator[None]:
    workers = [
        subprocess.Popen([sys.executable, sys.argv[0], "work"], stdout=sys.stderr)
        for _ in range(processes)
    ]
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            try:
                worker.wait(10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
