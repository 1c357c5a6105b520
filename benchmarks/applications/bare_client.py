"""A client that calls the functions as a server does, and keeps what they answer in memory.

What the SDK answers to it is the most that any server can get out of it on this machine.
"""

import asyncio
import json
import time
from typing import Any

import aiohttp

_OPS = 206


def runs_per_s(url: str, app: str, runs: int) -> float:
    """Runs a second of the function with three steps, all of them begun at once."""
    began = time.monotonic()
    asyncio.run(_run_all(url, f"{app}-three", f"{app}/three", runs))
    return runs / (time.monotonic() - began)


async def _run_all(url: str, function: str, event: str, runs: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(
            *(_run(session, url, function, {"name": event, "data": {"n": n}}) for n in range(runs))
        )


async def _run(
    session: aiohttp.ClientSession, url: str, function: str, event: dict[str, Any]
) -> None:
    shown = {**event, "id": f"bare-{event['data']['n']}", "ts": 1, "user": {}}
    steps: dict[str, Any] = {}
    while True:
        context = {
            "run_id": shown["id"],
            "attempt": 0,
            "disable_immediate_execution": False,
            "use_api": False,
            "stack": {"stack": list(steps), "current": len(steps)},
        }
        body = {
            "ctx": context,
            "event": shown,
            "events": [shown],
            "steps": steps,
            "use_api": False,
            "version": -1,
        }
        async with session.post(
            url,
            params={"fnId": function, "stepId": "step"},
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        ) as response:
            answer = await response.json()
            if response.status != _OPS:
                assert response.status == 200, f"HTTP {response.status}: {answer}"
                assert len(steps) == 3, f"a run ended after {len(steps)} steps"
                return
        for op in answer:
            steps[op["id"]] = {"data": op["data"]}
