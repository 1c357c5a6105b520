"""Reads a request's body: within its size and its time, and as strict JSON."""

import asyncio
import json
from typing import Any

from starlette.requests import Request

from runyard.gateway.problems import Problem
from runyard.settings import settings

MAX_BODY_BYTES = 10 * 1024 * 1024


async def read_body(request: Request) -> bytes:
    """The body, up to its limit of 10 MiB; raises `Problem`."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, "encoded", "send the body as it is, without Content-Encoding")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings().client_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
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


def _too_large() -> Problem:
    message = f"the body has more than {MAX_BODY_BYTES} bytes ({MAX_BODY_BYTES // 1024} KiB): send less at a time"
    return Problem(413, "too_large", message, headers={"Connection": "close"})
