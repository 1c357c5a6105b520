"""One invocation: its status, what blocks it, its timeline, and actions on it."""

import json
from dataclasses import dataclass
from datetime import datetime

from runyard.dagster_adapter.links import to_invocation
from runyard.engine.api_keys import Key
from runyard.engine.batch_claims import Capacity, capacities
from runyard.engine.status import NOT_RUNNING
from runyard.engine.step_logs import latest_logs
from runyard.gateway.api.actions import cancel_open, dismiss_failed, replay_one, run_invocation_now
from runyard.gateway.api.history import event_of, invocation_of, log_view
from runyard.gateway.api.schemas import FullInvocation
from runyard.gateway.dev.blockers import Reason, reasons
from runyard.gateway.dev.page import Action, Page, Values, Visit
from runyard.gateway.dev.timeline import timeline
from runyard.gateway.dev.trace_link import trace_url
from runyard.gateway.dev.usage import dollars
from runyard.store import database
from runyard.store.queries import Connection, Row, fetch_all, fetch_one
from runyard.text.redaction import redact

_MOST_OF_GROUP = 1_000
# The page is sent again at every change.
_MOST_LOGS = 200
_LOG_BYTES = 256 * 1024
# Of a long text that is being written, the end is shown.
_MAX_WRITTEN_SHOWN = 20_000
_MAX_PREVIEW = 160
_MAX_REDACTED = 20_000


@dataclass(frozen=True)
class _Rows:
    """What the database has of an invocation besides itself and its event."""

    segments: list[Row]
    batches: list[Row]
    logs: list[Row]
    progress: list[Row]
    written: list[Row]
    blockers: Row
    capacity: Capacity
    group: list[Row]
    replays: list[Row]


def show(visit: Visit) -> Values:
    """An invocation with everything known of it."""
    invocation = invocation_of(visit.path("id"), visit.caller)
    rows = _rows(invocation, visit.caller)
    event = event_of(invocation.event_id, visit.caller)
    outputs = {step.step: step.output for step in invocation.steps if step.error is None}
    blockers = rows.blockers
    return {
        "invocation": invocation,
        "event": event,
        "trace_url": trace_url(event.id, event.trace),
        "event_preview": _preview(event.data),
        "previews": {step: _preview(output) for step, output in outputs.items()},
        "dollars": dollars,
        "timeline": timeline(
            invocation,
            rows.segments,
            rows.batches,
            [log_view(row) for row in rows.logs],
            blockers["now"],
        ),
        "held": _held(invocation, rows),
        "progress": [report for report in rows.progress if report["step"] not in outputs],
        "written": [
            {"step": row["step"], "text": row["text"], "shown": _MAX_WRITTEN_SHOWN}
            for row in rows.written
            if row["step"] not in outputs
        ],
        "replays": rows.replays,
        "group": rows.group,
        "most_of_group": _MOST_OF_GROUP,
        "paused": blockers["paused_at"],
        "stopping": blockers["cancel_requested_at"],
        "can_run_now": _can_run_now(invocation, blockers["now"]),
    }


def _rows(invocation: FullInvocation, caller: Key) -> _Rows:
    number = invocation.id
    with database.connection() as connection:
        segments = fetch_all(connection, "run_segments", invocation=number)
        runs = {segment["run_id"] for segment in segments} | {invocation.run_id}
        blockers = fetch_one(connection, "blockers", invocation=number)
        assert blockers is not None
        app = fetch_one(connection, "app_function", name=invocation.function, slug="")
        progress, written = _shown_by_steps(invocation, connection)
        return _Rows(
            segments=segments,
            batches=fetch_all(connection, "batches_of_runs", runs=sorted(filter(None, runs))),
            logs=latest_logs(connection, number, _MOST_LOGS, _LOG_BYTES),
            progress=progress,
            written=written,
            blockers=blockers,
            capacity=capacities(connection).of(app is not None),
            group=_group(invocation, caller, connection),
            replays=fetch_all(
                connection, "replays_of", invocation=number, event=invocation.event_id
            ),
        )


def _shown_by_steps(
    invocation: FullInvocation, connection: Connection
) -> tuple[list[Row], list[Row]]:
    """What its steps have reported and written while they run; nothing otherwise."""
    if invocation.status != "running":
        return [], []
    return (
        fetch_all(connection, "latest_progress", invocation=invocation.id),
        fetch_all(connection, "written_texts", invocation=invocation.id),
    )


def _held(invocation: FullInvocation, rows: _Rows) -> list[Reason]:
    """Why it does not run."""
    workers = rows.capacity
    return reasons(
        rows.blockers,
        [wait.model_dump() for wait in invocation.waits],
        workers.slots,
        workers.waiting + workers.running,
    )


def _can_run_now(invocation: FullInvocation, now: datetime) -> bool:
    """Whether it is due later, and not for an event that it waits for: that cannot be skipped."""
    if invocation.status not in NOT_RUNNING or invocation.due_at <= now:
        return False
    return invocation.status == "queued" or any(wait.kind == "sleep" for wait in invocation.waits)


def _preview(value: object) -> str:
    """The beginning of a value as JSON; secrets are redacted before it is cut through one."""
    text = redact(json.dumps(value, ensure_ascii=False, default=str)[:_MAX_REDACTED])
    return text if len(text) <= _MAX_PREVIEW else f"{text[:_MAX_PREVIEW]}…"


def _group(invocation: FullInvocation, caller: Key, connection: Connection) -> list[Row]:
    """The events of the group that it leads, if there are others."""
    if invocation.leader_id != invocation.id:
        return []
    rows = fetch_all(connection, "group_of", leader=invocation.id, limit=_MOST_OF_GROUP)
    return [row for row in rows if caller.is_for(row["name"])] if len(rows) > 1 else []


def replay(visit: Visit) -> str:
    """Replay it; redirect to the new one."""
    return to_invocation(
        replay_one(visit.path("id"), visit.caller, keep=visit.form_value("keep") == "yes")[0]
    )


def cancel(visit: Visit) -> str:
    """Cancel it."""
    return to_invocation(cancel_open(visit.path("id"), visit.caller)[0])


def dismiss(visit: Visit) -> str:
    """Take its failure from the list of dead letters."""
    return to_invocation(dismiss_failed(visit.path("id"), visit.caller))


def run_now(visit: Visit) -> str:
    """Run it ahead of time."""
    return to_invocation(run_invocation_now(visit.path("id"), visit.caller))


PAGES = [Page("/invocations/{id}", "invocation", show, refresh_seconds=0.3)]
ACTIONS = [
    Action("/invocations/{id}/replay", replay),
    Action("/invocations/{id}/cancel", cancel),
    Action("/invocations/{id}/dismiss", dismiss),
    Action("/invocations/{id}/run-now", run_now),
]
