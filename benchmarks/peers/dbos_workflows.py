"""DBOS: two processes that take workflows from one queue."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import load
import psycopg
from dbos import DBOS, DBOSClient, DBOSConfig

_URL = os.environ["PEER_URL"]
_QUEUE = "bench"
_POLL_SECONDS = 0.1
_VERSION = "bench"


def _function(number: int) -> str:
    return f"job{number:02}"


class DBOSPeer:
    settings = (
        f"{load.WORKERS} processes, one queue without a limit (default), polled every"
        f" {_POLL_SECONDS} s (default 1 s); enqueued one by one"
    )

    def __init__(self) -> None:
        _launch("application")
        DBOS.register_queue(_QUEUE, polling_interval_sec=_POLL_SECONDS)
        DBOS.destroy()
        self._client = DBOSClient(system_database_url=_URL, application_name="bench")
        self._connection = psycopg.connect(_URL, autocommit=True)

    def enqueue(self, jobs: Sequence[load.Job]) -> list[str]:
        return [
            self._client.enqueue(
                {
                    "workflow_name": _function(number),
                    "queue_name": _QUEUE,
                    "app_version": _VERSION,
                },
                data,
            ).get_workflow_id()
            for number, data in jobs
        ]

    def finished(self) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
        ).fetchone()
        return int(row[0]) if row else 0

    def waited(self, ids: Sequence[str]) -> list[float]:
        return [self._client.retrieve_workflow(id).get_result()["waited"] for id in ids]


def _launch(executor: str) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": _URL,
        "application_version": _VERSION,
        "executor_id": executor,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    steps = [DBOS.step()(step) for step in (load.first, load.second, load.third)]
    for number in range(load.FUNCTIONS):
        _declare(number, steps)
    DBOS.launch()


def _declare(number: int, steps: list[Any]) -> None:
    @DBOS.workflow(name=_function(number))
    def job(data: dict[str, Any]) -> dict[str, Any]:
        for step in steps:
            data = step(data)
        return data


def work() -> None:
    _launch(f"worker-{os.getpid()}")
    threading.Event().wait()


if __name__ == "__main__":
    load.main(DBOSPeer, work)
