"""Processes that another one starts when it needs them, and that do not outlive it."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from runyard.settings import settings

# How long it may take to end when the time is over that runs in progress have to finish: it hands
# back the rest.
HAND_BACK_SECONDS = 2
_LOOK_SECONDS = 1.0
_log = logging.getLogger("runyard.processes")


class ChildProcess:
    """A `runyard` command that runs as long as this process does.

    Parameters
    ----------
    name
        What it is called in the log.
    arguments
        The command, which has to end by itself when this process is gone.
    """

    def __init__(self, name: str, *arguments: str) -> None:
        self._name = name
        self._arguments = arguments
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def keep_running(self) -> None:
        """Start the process, unless it runs or is to stop."""
        with self._lock:
            if self._is_stopping or (self._process is not None and self._process.poll() is None):
                return
            if self._process is not None:
                _log.warning(
                    "the %s has ended with code %s: starting another",
                    self._name,
                    self._process.returncode,
                )
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runyard", *self._arguments], stdin=subprocess.DEVNULL
            )

    def stop(self) -> None:
        """Tell the process to stop, if there is one; no other is started."""
        with self._lock:
            self._is_stopping = True
            if self._process is not None:
                self._process.terminate()

    def wait(self) -> None:
        """Wait until the process has stopped; kill it when that takes too long."""
        if self._process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(settings().drain_timeout + HAND_BACK_SECONDS)
            return
        self._process.kill()
        self._process.wait()


def watch_parent(when_gone: Callable[[], object]) -> None:
    """Call a function as soon as the process that has started this one is gone, however it ended.

    It is called in a thread.
    """
    threading.Thread(
        target=_watch_parent, args=(os.getppid(), when_gone), name="runyard-parent", daemon=True
    ).start()


def _watch_parent(parent: int, when_gone: Callable[[], object]) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    _log.error("the process that has started this one is gone: stopping")
    when_gone()
