"""The error with which a run failed outside of every step, as an invocation shows it.

It is read from the run's log in Dagster, so it is the same wherever the run was executed: an
exception in the body of an op, a resource that cannot be created, a value that fails Dagster's type
check, a job that the process could not load.
"""

import json
from collections.abc import Iterator
from typing import Any

from dagster import DagsterEventType, DagsterInstance, DagsterRun

from runyard.dagster_adapter.internals import SerializableErrorInfo
from runyard.text.error_text import fit, shortened_trace

_KINDS = {
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.RUN_FAILURE,
}
_OF_DAGSTER = "Dagster"
_MOST_CAUSES = 10
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def run_error(instance: DagsterInstance, run: DagsterRun) -> dict[str, Any]:
    """The first error of a failed run, as an invocation stores it: without secrets, and bounded.

    Without an error in the log it is what Dagster says about the end of the run.
    """
    said = ""
    for entry in instance.all_logs(run.run_id, _KINDS):
        event = entry.dagster_event
        if event is None:
            continue
        error = getattr(event.event_specific_data, "error", None)
        if error is not None:
            return _shown(error, event.step_key)
        if event.event_type == DagsterEventType.RUN_FAILURE:
            said = event.message or ""
    message = fit(" ".join(said.split())) or f"run {run.run_id} failed: see its log in Dagster"
    return error_of("RunFailed", message)


def error_of(kind: str, message: str, op: str | None = None, trace: str = "") -> dict[str, Any]:
    """An error outside of every step, with the keys of a step's error."""
    return {"step": None, "op": op, "type": kind, "message": message, "traceback": trace}


def as_json(error: dict[str, Any]) -> str:
    """An error as PostgreSQL stores it."""
    return json.dumps(error).replace("\\u0000", "\\ufffd")


def _shown(error: SerializableErrorInfo, op: str | None) -> dict[str, Any]:
    """An error of Dagster's log, without Dagster's own around it, which only tell where it was."""
    while (error.cls_name or "").startswith(_OF_DAGSTER) and error.cause is not None:
        error = error.cause
    kind = error.cls_name or "Error"
    # The message is as Python prints it, with the name of the type and its module before it.
    head, _, rest = error.message.partition(": ")
    message = rest if head.rpartition(".")[2] == kind else error.message
    trace = shortened_trace("".join(_trace(error)))
    return error_of(fit(kind), fit(message.strip()), op, trace)


def _trace(error: SerializableErrorInfo, depth: int = 0) -> Iterator[str]:
    """The traceback of an error and of those that led to it, as Python prints it."""
    if depth < _MOST_CAUSES:
        for earlier, link in ((error.cause, _CAUSE), (error.context, _CONTEXT)):
            if earlier is not None:
                yield from _trace(earlier, depth + 1)
                yield link
                break
    yield "Traceback (most recent call last):\n"
    yield from error.stack
    yield error.message
