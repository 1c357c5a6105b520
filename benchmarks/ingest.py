"""How many events the HTTP API accepts: one per request, and in arrays, over open connections.

The client writes requests and reads responses as bytes: on the same two cores, one that parsed
them properly would be measured too.
"""

import asyncio
import json
import time
from typing import Any

from runyard.events import millis
from runyard.settings import settings
from runyard.store import database

CONNECTIONS = 16
SECONDS = 6.0
ARRAY = 100
_WARM_UP = 1.0


def ingest() -> dict[str, Any]:
    """Events over HTTP on 16 open connections: one per request, and in arrays of 100.

    Each makes an invocation, and all are counted in the table.
    """
    # Due tomorrow: this measures the HTTP API, not the functions behind it.
    event = json.dumps(
        {"name": "bench/single", "data": {"n": 1}, "ts": millis() + 86_400_000}
    ).encode()
    return {
        "single_requests_per_s": round(_measure(event, 1)),
        "events_per_s_in_arrays_of_100": round(
            ARRAY * _measure(b"[" + b",".join([event] * ARRAY) + b"]", ARRAY)
        ),
    }


def _measure(body: bytes, events: int) -> float:
    """Requests a second."""
    asyncio.run(_load(body, _WARM_UP))
    before = _count()
    began = time.monotonic()
    requests = asyncio.run(_load(body, SECONDS))
    seconds = time.monotonic() - began
    kept = _count() - before
    assert kept == requests * events, (
        f"{requests * events} events were accepted, {kept} are in the table"
    )
    return requests / seconds


async def _load(body: bytes, seconds: float) -> int:
    head = (
        "POST /e/bench HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    deadline = time.monotonic() + seconds
    return sum(
        await asyncio.gather(
            *[_connection(head.encode() + body, deadline) for _ in range(CONNECTIONS)]
        )
    )


async def _connection(request: bytes, deadline: float) -> int:
    """Send the request again and again; return how many responses were 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", settings().port)
    done = 0
    while time.monotonic() < deadline:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = next(
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        await reader.readexactly(int(length.partition(b":")[2]))
        done += 1
    writer.close()
    return done


def _count() -> int:
    with database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) AS n FROM runyard.events WHERE name = 'bench/single'"
        ).fetchone()
    assert row is not None
    return int(str(row["n"]))
