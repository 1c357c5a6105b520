"""An application that only registers: its functions are named on the command line.

Arguments: the port, the id of the application, then `name:event`, or `name:event:expression`.
"""

import sys

import inngest
import inngest.fast_api
import uvicorn
from fastapi import FastAPI

port, app_id, *wanted = sys.argv[1:]
client = inngest.Inngest(app_id=app_id)


def made(what: str) -> inngest.Function:
    name, event, *expression = what.split(":", 2)
    trigger = inngest.TriggerEvent(event=event, expression=expression[0] if expression else None)

    @client.create_function(fn_id=name, name=name.title(), trigger=trigger, retries=2)
    async def function(context: inngest.Context) -> str:
        return context.event.name

    return function


app = FastAPI()
inngest.fast_api.serve(app, client, [made(what) for what in wanted])
uvicorn.run(app, port=int(port), log_level="warning")
