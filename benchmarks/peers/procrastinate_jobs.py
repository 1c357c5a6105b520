"""procrastinate: two worker processes that execute one job at a time each.

It has no steps: each is a job that defers the next one, whose arguments keep its result.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import load
import psycopg
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

_URL = os.environ["PEER_URL"]


def _declare(app: App, number: int) -> Any:
    """Declare the three tasks of a function; return the first."""

    @app.task(name=f"third{number:02}")
    async def third(data: dict[str, Any]) -> None:
        load.third(data)

    @app.task(name=f"second{number:02}")
    async def second(data: dict[str, Any]) -> None:
        await third.defer_async(data=load.second(data))

    @app.task(name=f"first{number:02}")
    async def first(data: dict[str, Any]) -> None:
        await second.defer_async(data=load.first(data) | {"job": data["job"]})

    return first


class ProcrastinatePeer:
    settings = (
        f"{load.WORKERS} worker processes, concurrency 1 (default), LISTEN; a step is a job that"
        " defers the next; batch_defer in groups of 100"
    )

    def __init__(self) -> None:
        self._app = App(connector=SyncPsycopgConnector(conninfo=_URL))
        self._app.open()
        self._app.schema_manager.apply_schema()
        self._firsts = [_declare(self._app, number) for number in range(load.FUNCTIONS)]
        self._connection = psycopg.connect(_URL, autocommit=True)
        self._enqueued = 0

    def enqueue(self, jobs: Sequence[load.Job]) -> list[str]:
        ids: list[str] = []
        by_function: dict[int, list[dict[str, Any]]] = {}
        for number, data in jobs:
            self._enqueued += 1
            ids.append(str(self._enqueued))
            by_function.setdefault(number, []).append({"data": data | {"job": ids[-1]}})
        for number, arguments in by_function.items():
            self._firsts[number].batch_defer(*arguments)
        return ids

    def finished(self) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM procrastinate_jobs"
            " WHERE status = 'succeeded' AND task_name LIKE 'third%'"
        ).fetchone()
        return int(row[0]) if row else 0

    def waited(self, ids: Sequence[str]) -> list[float]:
        return [
            float(row[0])
            for row in self._connection.execute(
                "SELECT args->'data'->>'waited' FROM procrastinate_jobs"
                " WHERE task_name LIKE 'third%%' AND args->'data'->>'job' = ANY (%s)",
                (list(ids),),
            )
        ]


async def _work() -> None:
    app = App(connector=PsycopgConnector(conninfo=_URL))
    for number in range(load.FUNCTIONS):
        _declare(app, number)
    async with app.open_async():
        await app.run_worker_async(concurrency=1)


if __name__ == "__main__":
    load.main(ProcrastinatePeer, lambda: asyncio.run(_work()))
