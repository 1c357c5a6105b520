"""The worker's second process, which calls the functions of applications: started when needed."""

import logging
import subprocess
import sys
import threading
from contextlib import suppress

from runyard.settings import settings

# How long it may take to hand back its runs, beyond the time that they get to finish.
_SPARE_SECONDS = 2.0
_log = logging.getLogger("runyard.worker")


class CallerProcess:
    """A `runyard caller` of this worker. It ends itself when the worker is gone."""

    def __init__(self) -> None:
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
                    "the caller has ended with code %s: starting another", self._process.returncode
                )
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runyard", "caller", "--of-worker"],
                stdin=subprocess.DEVNULL,
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
            self._process.wait(settings().stop_seconds + _SPARE_SECONDS)
            return
        self._process.kill()
        self._process.wait()
