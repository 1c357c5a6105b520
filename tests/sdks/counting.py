"""The application of the tests in which processes are killed: its ledger is a file, a line a step.

Arguments: the port, the id of the application, and the file.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import inngest
import inngest.fast_api
import uvicorn
from fastapi import FastAPI

port, app_id, path = sys.argv[1:]
client = inngest.Inngest(app_id=app_id)
# Each line is written at once, and is in the file even if this process is killed right after.
ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def noted(name: str, n: Any) -> Callable[[], Awaitable[Any]]:
    async def step() -> Any:
        os.write(ledger, f"{n} {name}\n".encode())
        await asyncio.sleep(0.3)
        return n

    return step


@client.create_function(fn_id="count", trigger=inngest.TriggerEvent(event="count/up"), retries=2)
async def count(context: inngest.Context) -> Any:
    n: Any = context.event.data["n"]
    await context.step.run("one", noted("one", n))
    await context.step.run("two", noted("two", n))
    return await context.step.run("three", noted("three", n))


app = FastAPI()
inngest.fast_api.serve(app, client, [count])
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
