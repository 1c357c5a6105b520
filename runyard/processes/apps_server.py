"""The code server of applications' functions, which starts anew when they change."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from runyard.apps import catalog
from runyard.dagster_adapter.apps_workspace import LOCATION, MODULE
from runyard.engine.backoff import Backoff
from runyard.engine.listener import APPS, listener
from runyard.processes.child_process import ChildProcess
from runyard.processes.module_server import serve_module

# How long a registration is waited for after another one: an application that is being written
# registers whenever a file is saved.
_SETTLE_SECONDS = 0.3
_LONGEST_WAIT = 5.0
# How often, and how many times in a row, no server is found before the daemon starts its own: one
# that starts anew takes about two seconds.
_LOOK_SECONDS = 1.0
_MISSING_LOOKS = 5
_log = logging.getLogger("runyard.apps")


def serve_apps(place: Sequence[str]) -> int:
    """Serve the code location of applications' functions until stopped.

    `place` is where, in options of Dagster's own gRPC server.
    """
    present = catalog.functions_digest()
    threading.Thread(
        target=_start_anew_on_change, args=(present,), name="runyard-apps-changes", daemon=True
    ).start()
    serve_module(MODULE, LOCATION, place)
    return 0


def on_socket(path: Path) -> Sequence[str]:
    """Options for a Unix socket, which replaces that of an earlier server."""
    path.unlink(missing_ok=True)
    return ["--socket", str(path)]


def _start_anew_on_change(present: str) -> None:
    """Replace this process by another one when applications have other functions."""
    backoff = Backoff(_log, "changes of applications' functions are not noticed", _LONGEST_WAIT)
    pause = threading.Event()
    with listener.subscribe(APPS) as changed:
        while True:
            try:
                if catalog.functions_digest() != present:
                    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 (itself)
            except Exception as error:
                pause.wait(backoff.failed(error))
                continue
            backoff.succeeded()
            changed.wait()
            changed.clear()
            while changed.wait(_SETTLE_SECONDS):
                changed.clear()


def start_when_needed(is_served: Callable[[], bool]) -> None:
    """Have this server started when there are functions to serve; in a thread of the daemon.

    The stack starts it where there is one; otherwise the daemon has it as a child, unless
    `is_served` tells that there is one already. Without applications there is no such process.
    """
    threading.Thread(
        target=_start_when_needed, args=(is_served,), name="runyard-apps-server", daemon=True
    ).start()


def _start_when_needed(is_served: Callable[[], bool]) -> None:
    backoff = Backoff(_log, "the code server of applications is not started", _LONGEST_WAIT)
    pause = threading.Event()
    with listener.subscribe(APPS) as registered:
        while True:
            registered.clear()
            try:
                if catalog.has_functions():
                    # Not before: a daemon without applications needs nothing of supervisord.
                    from runyard.processes.stack import start_apps_server

                    if start_apps_server():
                        return
                    break
            except Exception as error:
                pause.wait(backoff.failed(error))
            else:
                registered.wait()
    _keep_serving(is_served)


def _keep_serving(is_served: Callable[[], bool]) -> None:
    """Have a server as a child of this process when there is no other, and keep it running."""
    child = ChildProcess("code server of applications", "code-server", "--apps", "--of-daemon")
    backoff = Backoff(_log, "the code server of applications is not started", _LONGEST_WAIT)
    missing, is_ours = 0, False

    def look() -> None:
        nonlocal missing, is_ours
        missing = 0 if is_served() else missing + 1
        if is_ours or missing >= _MISSING_LOOKS:
            child.keep_running()
            is_ours = True

    backoff.repeat(look, _LOOK_SECONDS, threading.Event())
