"""Reads a request's body: within its size and its time, and as strict JSON."""

import asyncio
import json
from typing import Any

from starlette.requests import Request

from runyard.gateway import bodies
from runyard.gateway.connections import address_of
from runyard.gateway.problems import Problem
from runyard.settings import settings

MAX_BODY_BYTES = 10 * 1024 * 1024


async def read_body(request: Request, most: int = MAX_BODY_BYTES, key: str | None = None) -> bytes:
    """The body.

    Parameters
    ----------
    most
        How many bytes it may have.
    key
        The id of the key of its sender, None while that may be anybody: for those there is less memory.

    Raises `Problem`: 413 for one that is too large, 408 for one that comes too slowly, 503 where it does not fit beside those that are held.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "encoded", "send the body as it is, without Content-Encoding")
    held = bodies.hold(request.state, key or address_of(request.client.host if request.client else ""), known=key is not None)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal():
        if int(declared) > most:
            raise _too_large(most)
        held.check(int(declared))
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings().client_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _too_large(most)
                held.grow(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise Problem(408, "slow", f"the body did not come within {settings().client_seconds:g} s", headers={"Connection": "close"}) from None
    return b"".join(chunks)


def parse_json(body: bytes) -> Any:
    """The JSON of a body (UTF-8, without NaN and Infinity); raises `Problem`."""
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Problem(400, "invalid_json", "the body is not JSON that can be taken: it is nested too deep") from None
    except ValueError as error:
        raise Problem(400, "invalid_json", f"the body is not JSON: {error}") from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _too_large(most: int) -> Problem:
    message = f"the body has more than {most} bytes ({most // 1024} KiB), which is what this takes: send less at a time"
    return Problem(413, "too_large", message, headers={"Connection": "close"})
