"""A thread that saves what running steps show, a moment after it has changed."""

import logging
import os
import threading
import weakref
from typing import Protocol

from runyard.engine.backoff import Backoff

_LONGEST_WAIT = 10.0
_log = logging.getLogger("runyard.engine.background_saver")


class Savable(Protocol):
    """What changes while a step runs."""

    def save_changes(self) -> None:
        """Save what has changed since the last time. After an error it is called again."""


_savers: "weakref.WeakSet[BackgroundSaver]" = weakref.WeakSet()


class BackgroundSaver:
    """Saves what has been added to it, all of it in one thread, started with the first.

    What a step has dropped meanwhile is not saved: the step saves it itself when it ends. A child
    process begins with nothing to save, and with a thread of its own.

    Parameters
    ----------
    name
        The thread's name.
    what
        What it saves, as the log puts it: `the logs of steps`.
    seconds
        How long changes are collected before they are saved.
    """

    def __init__(self, name: str, what: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._backoff = Backoff(_log, f"{what} are not saved", _LONGEST_WAIT)
        self._start_anew()
        _savers.add(self)

    def _start_anew(self) -> None:
        """Begin without what there is to save, without a thread, and with locks that are free."""
        self._changed: weakref.WeakSet[Savable] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._added = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, changed: Savable) -> None:
        """Have something saved soon."""
        with self._lock:
            self._changed.add(changed)
            self._added.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = threading.Event()
        wait = self._seconds
        while self._added.wait():
            pause.wait(wait)
            wait = self._save()

    def _save(self) -> float:
        """Save all that has been added; return for how long to collect changes until the next."""
        with self._lock:
            self._added.clear()
            changed = list(self._changed)
            self._changed.clear()
        wait = self._seconds
        for each in changed:
            try:
                each.save_changes()
            except Exception as error:
                wait = max(wait, self._backoff.failed(error))
                self.add(each)
            else:
                self._backoff.succeeded()
        return wait


def _start_anew() -> None:
    """Leave what a parent process has to save to its own threads: a child has none of them."""
    for saver in _savers:
        saver._start_anew()


os.register_at_fork(after_in_child=_start_anew)
