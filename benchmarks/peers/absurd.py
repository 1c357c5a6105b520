"""Absurd: two worker processes that execute one task at a time each."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import load
import psycopg
from absurd_sdk import Absurd
from absurdctl import BUNDLED_SCHEMA_SQL

_QUEUE = "bench"
_POLL_SECONDS = 0.1
_URL = os.environ["PEER_URL"]


def _function(number: int) -> str:
    return f"job{number:02}"


class AbsurdPeer:
    settings = (
        f"{load.WORKERS} worker processes, concurrency 1, poll interval {_POLL_SECONDS} s"
        " (default 0.25 s); 100 spawns a transaction"
    )

    def __init__(self) -> None:
        self._connection = psycopg.connect(_URL, autocommit=True)
        # As `absurdctl init` does, which needs psql.
        self._connection.execute(BUNDLED_SCHEMA_SQL)
        self._app = Absurd(self._connection, queue_name=_QUEUE)
        self._app.create_queue(_QUEUE)

    def enqueue(self, jobs: Sequence[load.Job]) -> list[str]:
        with self._connection.transaction():
            return [
                str(self._app.spawn(_function(number), data, queue=_QUEUE)["task_id"])
                for number, data in jobs
            ]

    def finished(self) -> int:
        row = self._connection.execute(
            f"SELECT count(*) FROM absurd.t_{_QUEUE} WHERE state = 'completed'"
        ).fetchone()
        return int(row[0]) if row else 0

    def waited(self, ids: Sequence[str]) -> list[float]:
        return [
            float(row[0])
            for row in self._connection.execute(
                f"SELECT completed_payload->>'waited' FROM absurd.t_{_QUEUE}"
                " WHERE task_id = ANY (%s::uuid[])",
                (list(ids),),
            )
        ]


def _steps(data: dict[str, Any], context: Any) -> Any:
    for step in (load.first, load.second, load.third):
        data = context.step(step.__name__, _bound(step, data))
    return data


def _bound(
    step: Callable[[dict[str, Any]], dict[str, Any]], data: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    return lambda: step(data)


def work() -> None:
    app = Absurd(_URL, queue_name=_QUEUE)
    for number in range(load.FUNCTIONS):
        app.register_task(name=_function(number))(_steps)
    app.start_worker(concurrency=1, poll_interval=_POLL_SECONDS)


if __name__ == "__main__":
    load.main(AbsurdPeer, work)
