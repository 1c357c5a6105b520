"""WebSockets, with limits on what they may take: uvicorn waits for a client as long as it likes to be waited for. Read in uvicorn 0.54."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class GuardedSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is let go when it is not opened in time, or when its client reads nothing for a while."""

    _seconds = 0.0
    _gone: Callable[[], None] | None = None
    _look_due: asyncio.TimerHandle | None = None
    _left = 0

    def watch(self, seconds: float, gone: Callable[[], None]) -> None:
        """Look every so many seconds whether its client does its part, and call `gone` when the connection is lost."""
        self._seconds = seconds
        self._gone = gone
        # What is sent before the handshake is done would be read as if it were.
        self._read(False)
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        """Its place is free."""
        super().connection_lost(exc)
        if self._look_due is not None:
            self._look_due.cancel()
        if self._gone is not None:
            self._gone()

    async def send(self, message: Any) -> None:
        """Pass on what the application says."""
        opening = not self.handshake_complete
        await super().send(message)
        if self.close_sent:
            # A error_response completes the handshake too. uvicorn does not note that, and complains of the application in the log.
            self.handshake_complete = True
        elif opening and self.handshake_complete and self.writable.is_set():
            self._read(True)

    async def receive(self) -> Any:
        """What the application is told next."""
        message = await super().receive()
        if not self.writable.is_set():
            self._read(False)
        return message

    def pause_writing(self) -> None:
        """Its client does not read: then nothing is read of it either, for what it sends may have an answer, as pings have."""
        super().pause_writing()
        self._read(False)

    def resume_writing(self) -> None:
        """Its client reads again."""
        super().resume_writing()
        if not self.read_paused:
            self._read(True)

    def _read(self, on: bool) -> None:
        if not self.transport.is_closing():
            (self.transport.resume_reading if on else self.transport.pause_reading)()

    def _look_again(self) -> None:
        self._look_due = self.loop.call_later(self._seconds, self._look)

    def _look(self) -> None:
        left = self.transport.get_write_buffer_size()
        if not self.handshake_complete or (left and left == self._left):
            self.transport.abort()
            return
        self._left = left
        self._look_again()
