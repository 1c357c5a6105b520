"""Reads request bodies within limits on size, time and number of JSON values.

What Python raises while it parses what a client sent is the client's mistake, and becomes a 400.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import ValidationError
from starlette.requests import Request

from runyard.gateway.http import body_memory
from runyard.gateway.http.connection_limits import client_address
from runyard.gateway.http.errors import HttpError, invalid_field
from runyard.settings import settings
from runyard.text.error_text import why_not_json

Argument = TypeVar("Argument")
Result = TypeVar("Result")
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_VALUES = 250_000
# Larger bodies are parsed in a thread, so that other requests do not wait for them.
LARGE_BYTES = 256 * 1024
# Values are counted a piece at a time; other threads run between two pieces.
_PIECE = 64 * 1024
# The characters that start a JSON value or separate two.
_STARTS = (b",", b"[", b"{")


async def read_body(
    request: Request, max_bytes: int = MAX_BODY_BYTES, key: str | None = None
) -> bytes:
    """The request body.

    Parameters
    ----------
    max_bytes
        How large it may be.
    key
        The id of the sender's key; None while the sender is not identified, for whom there is less
        memory.

    Raises `HttpError`: 413 if it is too large, 408 if it arrives too slowly, 415 if it is encoded,
    503 if the memory for bodies is full.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        message = "send the body uncompressed, without Content-Encoding"
        raise HttpError(415, "unsupported_encoding", message)
    sender = key or client_address(request.client.host if request.client else "")
    reservation = body_memory.reserve(
        request.state, sender, known=key is not None, max_bytes=max_bytes
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal():
        if int(declared) > max_bytes:
            raise _too_large(max_bytes)
        reservation.check(int(declared))
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings().client_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                reservation.grow(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        message = f"the body did not arrive within {settings().client_timeout:g} s"
        raise HttpError(408, "request_timeout", message, headers={"Connection": "close"}) from None
    return b"".join(chunks)


async def parse_in_thread(parse: Callable[[Argument], Result], argument: Argument) -> Result:
    """Parse something large in a thread, one at a time.

    Python parses JSON without releasing the GIL, so two threads would block the event loop for
    twice as long.
    """
    return await to_thread.run_sync(parse, argument, limiter=_parser_limiter())


@lru_cache(maxsize=1)
def _parser_limiter() -> CapacityLimiter:
    return CapacityLimiter(1)


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn what Python raises over a client's input (too deep, too large, not text) into a 400.

    Only parsing belongs into such a block, for a bug of ours in it would be blamed on the client.
    """
    try:
        yield
    except ValidationError as error:
        raise invalid_field(error) from None
    except (RecursionError, OverflowError, ValueError) as error:
        message = (
            f"a part of this request cannot be read ({type(error).__name__}):"
            " it is nested too deeply, too large, or not text"
        )
        raise HttpError(400, "invalid_value", message) from error


def parse_json(body: bytes, max_values: int = MAX_VALUES) -> Any:
    """Parse a body as JSON: UTF-8, without NaN and Infinity, at most `max_values` values.

    Lists and objects count as values. Raises `HttpError`.
    """
    check_values(body, max_values)
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except RecursionError:
        message = "the JSON of the body is nested too deeply"
        raise HttpError(400, "invalid_json", message) from None
    except ValueError as error:
        message = f"the body is not JSON: {why_not_json(error)}"
        raise HttpError(400, "invalid_json", message) from None


def check_values(body: bytes, max_values: int = MAX_VALUES) -> None:
    """Raise `HttpError` for JSON with too many values to be parsed."""
    # The first count is cheap, and an upper bound: the characters may also occur inside strings.
    if sum(map(body.count, _STARTS)) >= max_values and _count_values(body) >= max_values:
        message = f"this JSON has more than {max_values} values: send less at a time"
        raise HttpError(413, "too_large", message)


def _count_values(body: bytes) -> int:
    """A lower bound for the number of values in JSON: structural characters outside of strings."""
    count, in_string, start = 0, False, 0
    while start < len(body):
        piece = body[start : start + _PIECE]
        # Do not cut an escape in two.
        end = start + _PIECE + (len(piece) - len(piece.rstrip(b"\\"))) % 2
        # Without escaped characters every quote starts or ends a string.
        parts = body[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        structure = b"".join(parts[in_string::2])
        count += sum(map(structure.count, _STARTS))
        in_string ^= len(parts) % 2 == 0
        start = end
    return count


def _reject_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _too_large(max_bytes: int) -> HttpError:
    message = (
        f"the body is larger than {max_bytes} bytes ({max_bytes // 1024} KiB),"
        " the limit of this endpoint: send less at a time"
    )
    return HttpError(413, "too_large", message, headers={"Connection": "close"})
