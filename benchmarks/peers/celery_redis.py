"""Celery with Redis as its broker and result backend: one worker with two processes.

The job is a chain of three tasks.
"""

import os
from collections.abc import Sequence
from typing import Any

import load
from celery import Celery, chain
from celery.result import AsyncResult
from redis import Redis

_SOCKET = os.environ["PEER_REDIS"]
_RESULTS = 1
_STEPS = (load.first, load.second, load.third)

app = Celery(
    broker=f"redis+socket://{_SOCKET}?virtual_host=0",
    backend=f"redis+socket://{_SOCKET}?virtual_host={_RESULTS}",
)
# A task of a lost worker is executed again, as by the other systems.
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)
tasks = [
    [app.task(name=f"{step.__name__}{number:02}")(step) for step in _STEPS]
    for number in range(load.FUNCTIONS)
]


class CeleryPeer:
    settings = (
        f"one worker with {load.WORKERS} prefork processes, late acknowledgement, prefetch 4"
        " (default); Redis with an append-only file (fsync every second) as broker and results"
    )

    def __init__(self) -> None:
        self._results = Redis(unix_socket_path=_SOCKET, db=_RESULTS)

    def enqueue(self, jobs: Sequence[load.Job]) -> list[str]:
        return [
            chain(first.s(data), second.s(), third.s()).apply_async().id
            for (first, second, third), data in ((tasks[number], data) for number, data in jobs)
        ]

    def finished(self) -> int:
        # The results of all three tasks are kept; the last is there when the job has finished.
        size: Any = self._results.dbsize()
        return int(size) // len(_STEPS)

    def waited(self, ids: Sequence[str]) -> list[float]:
        return [AsyncResult(id, app=app).get(timeout=10)["waited"] for id in ids]


def work() -> None:
    app.worker_main(["worker", f"--concurrency={load.WORKERS}", "--loglevel=WARNING"])


if __name__ == "__main__":
    load.main(CeleryPeer, work, processes=1)
