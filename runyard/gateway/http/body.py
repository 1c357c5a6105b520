"""Reads what a client has written: a body within its size and its time, JSON of a bounded size; and what Python raises over it is the client's mistake."""

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
from runyard.gateway.http.errors import HttpError, invalid
from runyard.settings import settings

Argument = TypeVar("Argument")
Result = TypeVar("Result")
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_VALUES = 250_000
# Larger bodies are read in a thread, so that others do not wait behind them.
LARGE_BYTES = 256 * 1024
# What is counted at a time: between two pieces other threads go on.
_PIECE = 64 * 1024
# What begins a value, or comes between two.
_STARTS = (b",", b"[", b"{")


async def read_body(request: Request, most: int = MAX_BODY_BYTES, key: str | None = None) -> bytes:
    """The body.

    Parameters
    ----------
    most
        How many bytes it may have.
    key
        The id of the key of its sender, None while that may be anybody: for those there is less memory.

    Raises `HttpError`: 413 for one that is too large, 408 for one that comes too slowly, 503 where it does not fit beside those that are held.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HttpError(
            415, "unsupported_encoding", "send the body as it is, without Content-Encoding"
        )
    held = body_memory.reserve(
        request.state,
        key or client_address(request.client.host if request.client else ""),
        known=key is not None,
        most=most,
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal():
        if int(declared) > most:
            raise _too_large(most)
        held.check(int(declared))
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings().client_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise _too_large(most)
                held.grow(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise HttpError(
            408,
            "request_timeout",
            f"the body did not come within {settings().client_timeout:g} s",
            headers={"Connection": "close"},
        ) from None
    return b"".join(chunks)


async def parse_in_thread(read: Callable[[Argument], Result], given: Argument) -> Result:
    """Read something large in a thread, one such thing at a time: Python parses JSON without a break, and two threads would hold up the others twice as long."""
    return await to_thread.run_sync(read, given, limiter=_turns())


@lru_cache(maxsize=1)
def _turns() -> CapacityLimiter:
    return CapacityLimiter(1)


@contextmanager
def client_errors() -> Iterator[None]:
    """Make a `HttpError` of what Python raises in the block over something that a client has written: too deep, too large a number, not text.

    Only reading stands in such a block: an error of our own would pass for the client's.
    """
    try:
        yield
    except ValidationError as error:
        raise invalid(error) from None
    except (RecursionError, OverflowError, ValueError) as error:
        raise HttpError(
            400,
            "invalid_value",
            f"something in this request cannot be read ({type(error).__name__}): it is too deep, too large or not text",
        ) from error


def parse_json(body: bytes, max_values: int = MAX_VALUES) -> Any:
    """The JSON of a body (UTF-8, without NaN and Infinity, with a bounded number of values, lists and objects); raises `HttpError`."""
    check_values(body, max_values)
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise HttpError(
            400, "invalid_json", "the body is not JSON that can be taken: it is nested too deep"
        ) from None
    except ValueError as error:
        raise HttpError(400, "invalid_json", f"the body is not JSON: {error}") from None


def check_values(body: bytes, max_values: int = MAX_VALUES) -> None:
    """Raise `HttpError` for JSON with too many values to be parsed."""
    # What is counted first is an upper bound, for these signs may stand in a text.
    if sum(map(body.count, _STARTS)) >= max_values and _values(body) >= max_values:
        raise HttpError(
            413, "too_large", f"this JSON has more than {max_values} values: send less at a time"
        )


def _values(body: bytes) -> int:
    """How many values, at least, the JSON of a body has: signs of its structure, without those in texts."""
    count, in_text, start = 0, False, 0
    while start < len(body):
        piece = body[start : start + _PIECE]
        # An escape is not cut in two.
        end = start + _PIECE + (len(piece) - len(piece.rstrip(b"\\"))) % 2
        # Without escaped characters every quote begins or ends a text.
        parts = body[start:end].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        structure = b"".join(parts[in_text::2])
        count += sum(map(structure.count, _STARTS))
        in_text ^= len(parts) % 2 == 0
        start = end
    return count


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON number")


def _too_large(most: int) -> HttpError:
    message = f"the body has more than {most} bytes ({most // 1024} KiB), which is what this takes: send less at a time"
    return HttpError(413, "too_large", message, headers={"Connection": "close"})
