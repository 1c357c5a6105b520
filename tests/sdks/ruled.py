"""An application whose functions have rules of flow control, or invoke others.

Its functions are those of `ruled.mjs`. What they did is its ledger, at /ledger. Arguments: the
port, and the id of the application.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import inngest
import inngest.fast_api
import uvicorn
from fastapi import FastAPI

port, app_id = sys.argv[1:]
client = inngest.Inngest(app_id=app_id)
functions: list[inngest.Function[Any]] = []
ledger: list[Any] = []
gates = [asyncio.Event()]
Run = Callable[[inngest.Context], Awaitable[Any]]


def made(name: str, run: Run, **options: Any) -> None:
    trigger = options.pop("trigger", inngest.TriggerEvent(event=f"rule/{name}"))
    decorate = client.create_function(fn_id=name, retries=0, trigger=trigger, **options)
    functions.append(decorate(run))


async def note(context: inngest.Context) -> None:
    ledger.append(context.event.data["n"])


async def note_and_nap(context: inngest.Context) -> None:
    n = context.event.data["n"]

    async def noted(what: Any) -> None:
        ledger.append(what)

    await context.step.run("note", noted, n)
    await context.step.sleep("nap", timedelta(hours=2))
    await context.step.run("then", noted, f"{n} awake")


async def note_and_hold(context: inngest.Context) -> None:
    ledger.append(context.event.data["n"])
    await gates[0].wait()


async def ask(context: inngest.Context) -> Any:
    data: Any = context.event.data
    try:
        value = await context.step.invoke_by_id(
            "ask", app_id=data.get("app"), function_id=data["function"], data=data.get("data")
        )
    except inngest.StepError as error:
        return {"error": error.message}
    return {"value": value}


async def tick(context: inngest.Context) -> None:
    ledger.append({"name": context.event.name, "cron": context.event.data["cron"]})


hour, seconds = timedelta(hours=1), timedelta(seconds=10)
pair = "event.data.a + '-' + event.data.b"
made("ask", ask)
made("keyed", note_and_hold, concurrency=[inngest.Concurrency(limit=1, key=pair)])
made("throttled", note, throttle=inngest.Throttle(limit=1, period=seconds))
made("limited", note, rate_limit=inngest.RateLimit(limit=1, period=hour, key="event.data.k"))
made("once", note, idempotency="event.data.k")
made("debounced", note, debounce=inngest.Debounce(period=seconds, key="event.data.k"))
made(
    "urgent",
    note,
    concurrency=[inngest.Concurrency(limit=1)],
    priority=inngest.Priority(run="event.data.vip ? 100 : 0"),
)
made("single", note_and_nap, singleton=inngest.Singleton(key="event.data.k", mode="skip"))
made("latest", note_and_nap, singleton=inngest.Singleton(key="event.data.k", mode="cancel"))
made("timed", note_and_nap, timeouts=inngest.Timeouts(finish=hour))
stop = inngest.Cancel(event="rule/stop", if_exp="event.data.n == async.data.n")
made("cancelled", note_and_nap, cancel=[stop])
made("ticking", tick, trigger=inngest.TriggerCron(cron="TZ=Europe/Paris 0 5 * * *"))

app = FastAPI()
inngest.fast_api.serve(app, client, functions)


@app.get("/ledger")
async def read() -> list[Any]:
    return ledger


@app.get("/clear")
async def clear() -> None:
    ledger.clear()
    gates[0].set()
    gates[0] = asyncio.Event()


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
