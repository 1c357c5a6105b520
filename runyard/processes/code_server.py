"""Publishes the functions, then serves the code location to daemon and web over gRPC."""

import logging
import threading
import time
from collections.abc import Sequence

from runyard.engine.backoff import Backoff
from runyard.errors import InvalidOption
from runyard.functions import registry
from runyard.processes.code_check import remember_problem
from runyard.processes.code_location import CodeProblem, load_checked_code, problem_of
from runyard.processes.module_server import serve_module
from runyard.processes.watched_code import note_loaded_code
from runyard.settings import settings

_RENEW_SECONDS = 10.0
_log = logging.getLogger("runyard.processes.code_server")


def serve_code(place: Sequence[str], *, beside: bool) -> int:
    """Publish the functions, then run Dagster's own gRPC server until stopped.

    `place` is where, in options of that server: on a Unix socket, or on a TCP port. `beside` says
    that code servers of other versions may be running, as during a rolling deploy: the one that was
    deployed last decides which functions there are.

    Code that fails to load is shown with its error in the Dagster UI and on the dev page, and the
    published functions stay as they were.
    """
    problem = _publish(beside)
    remember_problem(problem)
    if problem is not None:
        _log.error("The code does not load, so the functions stay as they were: %s", problem)
    elif beside:
        threading.Thread(target=_stay_published, name="runyard-publication", daemon=True).start()
    serve_module(settings().code, settings().code, place, "--lazy-load-user-code")
    return 0


def _publish(beside: bool) -> CodeProblem | None:
    """Load the code and publish its functions; return what is wrong with the code, if anything."""
    began = time.time()
    try:
        load_checked_code()
    except Exception as error:
        note_loaded_code(began, error)
        return problem_of(error)
    note_loaded_code(began)
    try:
        if not registry.publish(beside=beside):
            _log.warning(
                "a newer version of the code runs: its functions stay until it has been gone for"
                " %.0f s",
                registry.PUBLISHER_SILENT_SECONDS,
            )
    except InvalidOption as error:
        return problem_of(error)
    return None


def _stay_published() -> None:
    time.sleep(_RENEW_SECONDS)
    backoff = Backoff(_log, "the version of the code is not renewed", _RENEW_SECONDS)
    backoff.repeat(registry.stay_published, _RENEW_SECONDS, threading.Event())
