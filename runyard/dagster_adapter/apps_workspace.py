"""Loads the code location of applications' functions as soon as its code server is there.

A stack without applications has neither. So no workspace file names this location: daemon and web
look for the server's socket, and load the location without loading anything else again.
"""

import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from runyard.dagster_adapter.internals import (
    CodeLocationOrigin,
    WorkspaceLoadTarget,
    add_location,
    location_on_socket,
)
from runyard.engine.backoff import Backoff

# What the location is called in Dagster, and its module, which only its code server and the
# processes that execute runs import: the client of the calls takes 12 MB.
LOCATION = "apps"
MODULE = "runyard.dagster_adapter.apps_location"
_LOOK_SECONDS = 1.0
_LONGEST_WAIT = 30.0
_log = logging.getLogger("runyard.apps")


class AppsTarget(WorkspaceLoadTarget):
    """The code locations of a workspace, and that of applications once its socket has answered.

    Parameters
    ----------
    others
        The code locations of the workspace. If one of them is called `apps`, that is it.
    socket_path
        Where the code server of applications' functions listens on this machine.
    """

    def __init__(self, others: WorkspaceLoadTarget, socket_path: Path) -> None:
        self._others = others
        self._socket = socket_path
        self._has_answered = False

    def create_origins(self) -> Sequence[CodeLocationOrigin]:
        """The code locations to load now."""
        origins = list(self._others.create_origins())
        if not self._is_named(origins) and self._answers():
            origins.append(self._origin())
        return origins

    def follow(self, context: Any) -> None:
        """Load the location of applications when it appears, in a thread of this process."""
        if not self._is_named(self._others.create_origins()):
            threading.Thread(
                target=self._add_when_there, args=(context,), name="runyard-apps", daemon=True
            ).start()

    def _add_when_there(self, context: Any) -> None:
        pause = threading.Event()
        backoff = Backoff(_log, "the functions of applications are not loaded", _LONGEST_WAIT)
        while not context.has_code_location(LOCATION):
            try:
                if self._answers():
                    add_location(context, self._origin())
            except Exception as error:
                pause.wait(backoff.failed(error))
            else:
                pause.wait(_LOOK_SECONDS)

    def _origin(self) -> CodeLocationOrigin:
        return location_on_socket(LOCATION, str(self._socket))

    def is_served(self) -> bool:
        """Whether a server is there now, or is another's concern: the workspace names one."""
        return self._is_named(self._others.create_origins()) or self._connects()

    def _answers(self) -> bool:
        """Whether the server is there, or was before: then it only starts anew."""
        self._has_answered = self._has_answered or self._connects()
        return self._has_answered

    def _connects(self) -> bool:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self._socket))
            return True
        return False

    @staticmethod
    def _is_named(origins: Sequence[CodeLocationOrigin]) -> bool:
        return any(origin.location_name == LOCATION for origin in origins)
