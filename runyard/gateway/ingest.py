"""`POST /e/{key}`: one event or an array of them; all are accepted, or none.

The form of the body and of the answers is that of Inngest's event API, so that its SDKs can send here.
"""

import hmac
import json
import logging

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from runyard.errors import InvalidEvent
from runyard.events import Event, rows_as_json
from runyard.settings import settings
from runyard.store.queries import statements

MAX_EVENTS = 5000
MAX_BODY_BYTES = 10 * 1024 * 1024
_RETRY_SECONDS = 2
_log = logging.getLogger("runyard.gateway")


async def send_events(request: Request) -> Response:
    """Take events; the answer with their ids comes after the commit."""
    if not _key_is_known(request.path_params["key"]):
        return _refused(401, "Event key not found")
    try:
        body = await _body(request)
        events = [Event.from_wire(raw) for raw in _parse(body)]
        rows = rows_as_json(events)
    except InvalidEvent as error:
        return _refused(400, str(error))
    except ClientDisconnect:
        return Response(status_code=400)
    pool: AsyncConnectionPool = request.app.state.pool
    try:
        async with pool.connection() as connection:
            cursor = await connection.execute(statements()["send"], {"events": rows, "source": "http"})
            ids = [row[0] for row in await cursor.fetchall()]
    except psycopg.DataError as error:
        return _refused(400, f"the database cannot keep this event: {error.diag.message_primary or type(error).__name__}")
    except (psycopg.OperationalError, PoolTimeout) as error:
        _log.warning("events refused, the database does not answer: %s", type(error).__name__)
        return _refused(503, "the database does not answer; nothing was accepted. Send again", {"Retry-After": str(_RETRY_SECONDS)})
    return JSONResponse({"ids": ids, "status": 200})


def _key_is_known(key: str) -> bool:
    """Whether this key may send. On loopback without configured keys, any may. Compared in constant time."""
    keys = settings().event_keys
    if not keys:
        return settings().loopback_only
    found = [hmac.compare_digest(key.encode(), known.get_secret_value().encode()) for known in keys]
    return any(found)


async def _body(request: Request) -> bytes:
    """The body, read up to its limit."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise InvalidEvent(f"the body has more than {MAX_BODY_BYTES} bytes (10 MiB): send fewer events at a time")
        chunks.append(chunk)
    return b"".join(chunks)


def _parse(body: bytes) -> list[object]:
    try:
        parsed = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(f"the body is not JSON: {error}") from None
    if isinstance(parsed, dict):
        return [parsed]
    if not isinstance(parsed, list):
        raise InvalidEvent("Request body must contain an event object or an array of event objects")
    if len(parsed) > MAX_EVENTS:
        raise InvalidEvent(f"the body has {len(parsed)} events; a request may have {MAX_EVENTS}: send them in several")
    return parsed


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _refused(status: int, error: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"ids": [], "status": status, "error": error}, status_code=status, headers=headers)
