"""Listens for PostgreSQL notifications, on one connection and in one thread per process.

Subscribers are woken when an invocation may be due, or when applications have registered other
functions. A lost connection is opened again, and then all are woken, as a notification may have
been missed. No error ends the thread.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import psycopg

from runyard.engine.backoff import Backoff
from runyard.store.database import direct_url

Channel = Literal["runyard_due", "runyard_apps"]
DUE: Channel = "runyard_due"
APPS: Channel = "runyard_apps"
_MAX_WAIT = 5.0
_log = logging.getLogger("runyard.engine.listener")


class Listener:
    """Passes notifications on to subscribers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: dict[Channel, set[threading.Event]] = {DUE: set(), APPS: set()}
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribe(self, channel: Channel = DUE) -> Iterator[threading.Event]:
        """Yield an event that is set whenever work may be due, or when functions of apps change.

        Clear the event before looking for work.
        """
        woken = threading.Event()
        with self._lock:
            self._subscribers[channel].add(woken)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._listen, name="runyard-listener", daemon=True
                )
                self._thread.start()
        try:
            yield woken
        finally:
            with self._lock:
                self._subscribers[channel].discard(woken)

    def _listen(self) -> None:
        pause = threading.Event()
        backoff = Backoff(_log, "not listening", _MAX_WAIT)
        while True:
            try:
                with psycopg.connect(
                    direct_url(), autocommit=True, application_name="runyard listener"
                ) as connection:
                    for channel in self._subscribers:
                        connection.execute(f"LISTEN {channel}".encode())
                    backoff.succeeded()
                    self._wake(DUE, APPS)
                    for notification in connection.notifies():
                        self._wake(cast(Channel, notification.channel))
            except Exception as error:
                pause.wait(backoff.failed(error))

    def _wake(self, *channels: Channel) -> None:
        with self._lock:
            for channel in channels:
                for woken in self._subscribers[channel]:
                    woken.set()


listener = Listener()
