"""Listens for PostgreSQL notifications, on one connection and in one thread per process.

Subscribers are woken when an invocation may be due. A lost connection is opened again, and then
they are woken too, as a notification may have been missed. No error ends the thread.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from runyard.engine.backoff import Backoff
from runyard.store.database import direct_url

CHANNEL = "runyard_due"
_MAX_WAIT = 5.0
_log = logging.getLogger("runyard.engine.listener")


class Listener:
    """Passes notifications on to subscribers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: set[threading.Event] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribe(self) -> Iterator[threading.Event]:
        """Yield an event that is set whenever work of any function may be due.

        Clear the event before looking for work.
        """
        woken = threading.Event()
        with self._lock:
            self._subscribers.add(woken)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._listen, name="runyard-listener", daemon=True
                )
                self._thread.start()
        try:
            yield woken
        finally:
            with self._lock:
                self._subscribers.discard(woken)

    def _listen(self) -> None:
        pause = threading.Event()
        backoff = Backoff(_log, "not listening", _MAX_WAIT)
        while True:
            try:
                with psycopg.connect(
                    direct_url(), autocommit=True, application_name="runyard listener"
                ) as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    backoff.succeeded()
                    self._wake()
                    for _ in connection.notifies():
                        self._wake()
            except Exception as error:
                pause.wait(backoff.failed(error))

    def _wake(self) -> None:
        with self._lock:
            for woken in self._subscribers:
                woken.set()


listener = Listener()
