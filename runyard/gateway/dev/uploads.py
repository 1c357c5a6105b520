"""Takes a file for a field of the send form: its bytes are the body, as the script sends them.

A project that has fields for files (`x-upload` in the schema of an event type) says in its pages'
module how a file is kept (`UPLOADS`), and what goes into the field then.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from anyio import CancelScope
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from runyard.gateway.http.errors import HttpError
from runyard.settings import settings

# Each has a file open, and may take minutes.
_MAX_UPLOADS = 4
_MAX_NAME = 200
# Bytes a second: whoever sends less does not keep a place for long.
_SLOWEST = 64 * 1024
_open = 0


class Incoming(Protocol):
    """A file that is being received; `value` is what names it in an event."""

    value: str

    def write(self, piece: bytes) -> object:
        """Add bytes."""


@dataclass(frozen=True)
class Uploads:
    """How a project keeps uploads.

    Parameters
    ----------
    receive
        Takes the file's name, as the visitor's machine has it. Returns a context in which the file
        is received, and which keeps it, or deletes it after an error. All of it runs in threads.
    max_bytes
        How large a file may be.
    """

    receive: Callable[[str], AbstractContextManager[Incoming]]
    max_bytes: int


async def save(request: Request, uploads: Uploads) -> str:
    """Receive the file that is the body, named by the query's `name`; return the field's value.

    Raises `HttpError`: 408 if it stalls or is too slow, 413 if it is too large, 503 if there are
    too many.
    """
    global _open
    if _open >= _MAX_UPLOADS:
        message = f"{_MAX_UPLOADS} files are being uploaded already: wait for one of them"
        raise HttpError(503, "too_many", message, headers={"Connection": "close"})
    _check_size(int(_declared(request)), uploads)
    _open += 1
    try:
        return await _receive(request, uploads)
    finally:
        _open -= 1


async def _receive(request: Request, uploads: Uploads) -> str:
    name = request.query_params.get("name", "")[:_MAX_NAME]
    async with _in_threads(uploads.receive(name)) as incoming:
        size = 0
        async for piece in _in_time(request.stream()):
            size += len(piece)
            _check_size(size, uploads)
            await run_in_threadpool(incoming.write, piece)
        return incoming.value


@asynccontextmanager
async def _in_threads(context: AbstractContextManager[Incoming]) -> AsyncIterator[Incoming]:
    """The context, entered and left in threads, as it uses the disk; left in any case."""
    with CancelScope(shield=True):
        incoming = await run_in_threadpool(context.__enter__)
    try:
        yield incoming
    except BaseException as error:
        with CancelScope(shield=True):
            await run_in_threadpool(context.__exit__, type(error), error, error.__traceback__)
        raise
    await run_in_threadpool(context.__exit__, None, None, None)


async def _in_time(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a body; raises `HttpError` when it stalls, or is too slow as a whole."""
    patience = settings().client_timeout
    size, waited = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                piece = await anext(stream, None)
        except TimeoutError:
            raise _too_slow("the file stopped arriving: upload it again") from None
        if piece is None:
            return
        size += len(piece)
        waited += time.monotonic() - began
        if waited > patience + size / _SLOWEST:
            raise _too_slow(f"the file arrives at less than {_SLOWEST >> 10} KiB a second")
        yield piece


def _too_slow(message: str) -> HttpError:
    return HttpError(408, "request_timeout", message, headers={"Connection": "close"})


def _declared(request: Request) -> str:
    declared = request.headers.get("content-length", "0")
    return declared if declared.isascii() and declared.isdecimal() and len(declared) < 20 else "0"


def _check_size(size: int, uploads: Uploads) -> None:
    if size > uploads.max_bytes:
        message = f"the file is larger than {uploads.max_bytes >> 20} MiB"
        raise HttpError(413, "too_large", message, headers={"Connection": "close"})
