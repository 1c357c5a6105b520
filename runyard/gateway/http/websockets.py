"""WebSockets with timeouts: uvicorn waits for a client indefinitely (as of uvicorn 0.54)."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class GuardedSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is closed if its handshake takes too long or its client stops reading."""

    _interval = 0.0
    _on_close: Callable[[], None] | None = None
    _check_timer: asyncio.TimerHandle | None = None
    _unread = 0

    def watch(self, interval: float, on_close: Callable[[], None]) -> None:
        """Check the client every `interval` seconds, and call `on_close` when it is gone."""
        self._interval = interval
        self._on_close = on_close
        # What arrives before the handshake is complete would be parsed as if it were.
        self._set_reading(False)
        self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free its place."""
        super().connection_lost(exc)
        if self._check_timer is not None:
            self._check_timer.cancel()
        if self._on_close is not None:
            self._on_close()

    async def send(self, message: Any) -> None:
        """Forward a message of the application."""
        opening = not self.handshake_complete
        await super().send(message)
        if self.close_sent:
            # A rejection completes the handshake too. uvicorn does not note that, and would log an
            # error of the application.
            self.handshake_complete = True
        elif opening and self.handshake_complete and self.writable.is_set():
            self._set_reading(True)

    async def receive(self) -> Any:
        """The next message for the application."""
        message = await super().receive()
        if not self.writable.is_set():
            self._set_reading(False)
        return message

    def pause_writing(self) -> None:
        """Stop reading while the client does not read: a ping, for one, would need a response."""
        super().pause_writing()
        self._set_reading(False)

    def resume_writing(self) -> None:
        """Read again, as the client does."""
        super().resume_writing()
        if not self.read_paused:
            self._set_reading(True)

    def _set_reading(self, on: bool) -> None:
        if self.transport.is_closing():
            return
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _schedule_check(self) -> None:
        self._check_timer = self.loop.call_later(self._interval, self._check)

    def _check(self) -> None:
        unread = self.transport.get_write_buffer_size()
        if not self.handshake_complete or (unread and unread == self._unread):
            self.transport.abort()
            return
        self._unread = unread
        self._schedule_check()
