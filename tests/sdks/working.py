"""The application of the tests in which functions run: what it did is its ledger, at /ledger.

Its functions are those of `working.mjs`. Arguments: the port, and the id of the application.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
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


async def failed(context: inngest.Context) -> None:
    data = context.event.data
    original: Any = data["event"]
    error: Any = data["error"]
    names = {name: data[name] for name in ("function_id", "run_id")}
    ledger.append({"error": error["message"], "data": original["data"], **names})


def made(
    name: str,
    *,
    retries: int = 1,
    on_failure: Any = None,
    batch: inngest.Batch | None = None,
    triggers: "list[inngest.TriggerCron | inngest.TriggerEvent] | None" = None,
) -> "Callable[[Run], inngest.Function[Any]]":
    def decorate(run: Run) -> "inngest.Function[Any]":
        function = client.create_function(
            fn_id=name,
            retries=retries,
            on_failure=on_failure,
            batch_events=batch,
            trigger=triggers or inngest.TriggerEvent(event=f"work/{name}"),
        )(run)
        functions.append(function)
        return function

    return decorate


def noted(name: Any, value: Any = None) -> Callable[[], Awaitable[Any]]:
    async def step() -> Any:
        ledger.append(name)
        return value

    return step


async def caught(what: Callable[[], Awaitable[Any]]) -> Mapping[str, Any]:
    try:
        return {"value": await what()}
    except inngest.StepError as error:
        return {"error": error.message}


@made("serial")
async def serial(context: inngest.Context) -> Any:
    n: Any = context.event.data["n"]
    one = await context.step.run("one", noted("one", n + 1))
    two = await context.step.run("two", noted("two", one * 2))
    return await context.step.run("three", noted("three", {"one": one, "two": two}))


@made("plain")
async def plain(context: inngest.Context) -> Any:
    return context.event.data["value"]


@made("throws", on_failure=failed)
async def throws(context: inngest.Context) -> None:
    ledger.append(context.attempt)
    raise ValueError("boom")


@made("fatal", on_failure=failed)
async def fatal(context: inngest.Context) -> None:
    ledger.append(context.attempt)
    raise inngest.NonRetriableError("never")


@made("patient")
async def patient(context: inngest.Context) -> str:
    ledger.append(context.attempt)
    if context.attempt == 0:
        raise inngest.RetryAfterError("busy", timedelta(hours=1))
    return "done"


@made("failing_step", on_failure=failed)
async def failing_step(context: inngest.Context) -> Any:
    async def no() -> None:
        ledger.append("bad")
        raise ValueError("no")

    async def bad() -> None:
        await context.step.run("bad", no)

    await context.step.run("good", noted("good"))
    return await caught(bad) if context.event.data.get("catch") else await bad()


@made("nap")
async def nap(context: inngest.Context) -> Any:
    await context.step.run("before", noted("before"))
    until = context.event.data.get("until")
    if until:
        await context.step.sleep_until("nap", datetime.fromisoformat(str(until)))
    else:
        await context.step.sleep("nap", timedelta(days=2))
    return await context.step.run("after", noted("after", "awake"))


@made("wait")
async def wait(context: inngest.Context) -> Any:
    answer = await context.step.wait_for_event(
        "answer",
        event="work/answer",
        timeout=timedelta(hours=1),
        if_exp="event.data.n == async.data.n && async.data.kind in ['yes', 'no']",
    )
    return answer and {"name": answer.name, "data": answer.data}


@made("child", retries=0)
async def child(context: inngest.Context) -> Any:
    data = context.event.data
    if data.get("fail"):
        raise inngest.NonRetriableError("child failed")
    if data.get("sleep"):
        await context.step.sleep("long", timedelta(days=1))
    return {"got": data.get("n"), "event": context.event.name}


@made("parent")
async def parent(context: inngest.Context) -> Any:
    def call(name: str, data: dict[str, Any], timeout: timedelta | None = None) -> Any:
        return lambda: context.step.invoke(name, function=child, data=data, timeout=timeout)

    return {
        "good": await caught(call("good", {"n": 5})),
        "bad": await caught(call("bad", {"fail": True})),
        "slow": await caught(call("slow", {"sleep": True}, timedelta(minutes=10))),
    }


@made("parallel")
async def parallel(context: inngest.Context) -> Any:
    step = context.step
    found = await context.group.parallel(
        (
            lambda: step.run("a", noted("a", "A")),
            lambda: step.run("b", noted("b", "B")),
            lambda: step.run("c", noted("c", "C")),
            lambda: step.sleep("nap", timedelta(hours=1)),
        )
    )
    return await step.run("last", noted("last", "".join(str(each) for each in found[:3])))


ODD = {"data": {"data": 1, "error": None}, "list": [None, 0, ""], "ключ": "é\U0001f600"}


@made("odd")
async def odd(context: inngest.Context) -> Any:
    values = [None, 0, "", None, False, ODD, {"error": "x"}, 12345678901234567890, 1e-7]
    for n, value in enumerate(values):
        await context.step.run(f'it\'s "n°{n}" 😀', noted(n, value))
    found = [await context.step.run("same", noted("same", n)) for n in range(len(values))]
    ledger[:] = [each for each in ledger if each != "same"]
    return {"found": found, "data": context.event.data}


@made("unstorable", retries=0)
async def unstorable(context: inngest.Context) -> Any:
    text = "a\0b" if context.event.data["kind"] == "nul" else "a\ud83db"
    return await context.step.run("text", noted("text", text))


@made("large")
async def large(context: inngest.Context) -> int:
    parts = [await context.step.run(f"part {n}", noted(n, "x" * 1_000_000)) for n in range(7)]
    return sum(map(len, parts))


@made(
    "chosen",
    triggers=[
        inngest.TriggerEvent(
            event="work/chosen", expression="event.data.kind in ['a', 'b'] && event.data.n > 1"
        ),
        inngest.TriggerEvent(event="choose/*"),
        inngest.TriggerEvent(event="choose/this"),
    ],
)
async def chosen(context: inngest.Context) -> str:
    return context.event.name


async def failed_batch(context: inngest.Context) -> None:
    data: Any = context.event.data
    all_events = [event["data"]["n"] for event in data["events"]]
    first = data["event"]["data"]["n"]
    ledger.append({"error": data["error"]["message"], "first": first, "all": all_events})


@made(
    "gather",
    on_failure=failed_batch,
    batch=inngest.Batch(
        max_size=10,
        timeout=timedelta(seconds=30),
        key="event.data.tenant",
        if_exp="!event.data.alone",
    ),
)
async def gather(context: inngest.Context) -> Any:
    numbers = [event.data["n"] for event in context.events]
    data = context.event.data

    async def fails() -> None:
        ledger.append("fails")
        raise ValueError("no batch")

    async def hold() -> None:
        ledger.append("held")
        await gates[0].wait()

    found = await context.step.run("all", noted(numbers, numbers))
    if data.get("sleep"):
        await context.step.sleep("nap", timedelta(hours=1))
    if data.get("fail"):
        await context.step.run("fails", fails)
    if data.get("hold"):
        await context.step.run("held", hold)
    return {"first": data["n"], "all": found}


@made("held", on_failure=failed)
async def held(context: inngest.Context) -> None:
    async def hold() -> None:
        ledger.append("held")
        await gates[0].wait()

    await context.step.run("held", hold)
    await context.step.run("then", noted("then"))


@made("mended", retries=0)
async def mended(context: inngest.Context) -> str:
    async def second() -> str:
        is_mended = "second" in ledger
        ledger.append("second")
        if not is_mended:
            raise inngest.NonRetriableError("broken")
        return "mended"

    await context.step.run("first", noted("first"))
    return await context.step.run("second", second)


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
