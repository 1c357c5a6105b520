"""The application of the tests whose steps reach beyond it, as far as the SDK for Python can.

Arguments: the port, and the id of the application. The key of services is in REACH_KEY.
"""

import os
import sys
from typing import Any

import inngest
import inngest.fast_api
import uvicorn
from fastapi import FastAPI
from inngest.experimental.ai import anthropic, gemini, openai

port, app_id = sys.argv[1:]
client = inngest.Inngest(app_id=app_id)
ADAPTERS: Any = {"anthropic": anthropic, "gemini": gemini, "openai": openai}


@client.create_function(fn_id="infer", retries=1, trigger=inngest.TriggerEvent(event="reach/infer"))
async def infer(context: inngest.Context) -> Any:
    data: Any = context.event.data
    adapter = ADAPTERS[data["provider"]].Adapter(
        auth_key=os.environ["REACH_KEY"], base_url=data["url"], model="model-1"
    )
    try:
        return {"value": await context.step.ai.infer("ask", adapter=adapter, body=data["body"])}
    except inngest.StepError as error:
        return {"name": error.name, "error": error.message}


app = FastAPI()
inngest.fast_api.serve(app, client, [infer])
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
