"""Sends its input through Inngest's SDK and prints the ids or the error.

Every other time it does so without asyncio.
"""

import asyncio
import json
import sys

import inngest

events = [inngest.Event(**event) for event in json.loads(sys.argv[1])]
client = inngest.Inngest(app_id="tests", is_production=True)
sent: list[str] = []
error = None
try:
    with asyncio.Runner() as runner:
        for number in range(int(sys.argv[2])):
            sent += client.send_sync(events) if number % 2 else runner.run(client.send(events))
except Exception as raised:
    error = str(raised)
print(json.dumps({"ids": sent, **({"error": error} if error is not None else {})}))
