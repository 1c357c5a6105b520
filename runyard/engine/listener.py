"""Waits for NOTIFY: one connection and one thread a process, whoever waits.

A waiting sensor subscribes with its functions' names and is woken when an invocation of it may be due. A lost
connection is made again, and then everybody is woken, since a notification may have been missed. No error ends the thread.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from runyard.engine.backoff import Backoff
from runyard.store.database import direct_url

_CHANNEL = "runyard_due"
_MOST_SECONDS = 5.0
_log = logging.getLogger("runyard.engine.listener")


class Listener:
    """Hands notifications to those who subscribed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def subscribe(self, *functions: str) -> Iterator[threading.Event]:
        """An event that is set whenever work of one of these functions may be due; clear it before looking."""
        woken = threading.Event()
        with self._lock:
            for function in functions:
                self._waiting.setdefault(function, set()).add(woken)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._listen, name="runyard-listener", daemon=True
                )
                self._thread.start()
        try:
            yield woken
        finally:
            with self._lock:
                for function in functions:
                    self._waiting[function].discard(woken)

    def _listen(self) -> None:
        pause = threading.Event()
        backoff = Backoff(_log, "not listening", _MOST_SECONDS)
        while True:
            try:
                with psycopg.connect(
                    direct_url(), autocommit=True, application_name="runyard listener"
                ) as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    backoff.succeeded()
                    self._wake("")
                    for notification in connection.notifies():
                        self._wake(notification.payload)
            except Exception as error:
                pause.wait(backoff.failed(error))

    def _wake(self, payload: str) -> None:
        with self._lock:
            names = payload.split(",") if payload else list(self._waiting)
            for name in names:
                for woken in self._waiting.get(name, ()):
                    woken.set()


listener = Listener()
