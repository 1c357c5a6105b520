"""Dagster's own gRPC server, which serves a module as a code location."""

import os
from collections.abc import Sequence

from dagster import DagsterExecutionInterruptedError

from runyard.dagster_adapter.internals import grpc_command, leave_loggers_alone
from runyard.settings import settings

# The UI and the daemon ask for little at a time; the ticks of schedules and sensors take threads.
_THREADS = 16


def serve_module(module: str, location: str, place: Sequence[str], *options: str) -> None:
    """Serve a module as the code location of this name until SIGTERM or SIGINT.

    `place` is where, in options of Dagster's command, to which further `options` are given.
    """
    if settings().log_format == "json":
        leave_loggers_alone()
    arguments = ["--module-name", module, "--location-name", location, *place, *options]
    arguments += ["--max-workers", str(_THREADS), "--log-level", "warning"]
    try:
        with grpc_command.make_context("grpc", arguments) as context:
            grpc_command.invoke(context)
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        # A signal came before the server was up. Threads that gRPC has started by then may keep
        # the process from ending.
        os._exit(0)
