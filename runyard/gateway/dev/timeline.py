"""The timeline of an invocation: its waits and its runs with their steps, in order."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from runyard.engine.status import FINAL
from runyard.gateway.api.schemas import Failure, FullInvocation, LogView, StepView
from runyard.gateway.dev.usage import Usage, total, usage_of
from runyard.store.queries import Row

# Results of earlier steps that are listed as the input of a step.
_MAX_RESULTS = 10

# What the invocation waited for after a run segment that ended with this status.
_NEXT = {
    "queued": "backoff",
    "sleeping": "sleeping",
    "waiting": "waiting",
    "lost": "queued",
    "failed": "ended",
    "cancelled": "ended",
}


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes
    ----------
    begin, width
        Its place in the run in percent; None if unknown.
    had
        The latest steps whose results it could read, in order, and `more` such steps before them.
    log
        The first lines that it printed and logged.
    usage
        What a step that called a language model has used.
    """

    name: str
    status: str
    seconds: float | None
    begin: float | None
    width: float | None
    tries: int | None
    output: Any
    error: Failure | None
    log: LogView | None = None
    started_at: datetime | None = None
    had: tuple[str, ...] = ()
    more: int = 0
    usage: Usage | None = None


@dataclass(frozen=True)
class Span:
    """A period on the timeline.

    Attributes
    ----------
    kind
        `run`, or a wait: queued, claimed (until its run starts), backoff, sleeping, waiting, or
        ended (until it is taken up again).
    end
        None while it lasts.
    size
        How many invocations the run was for.
    """

    kind: str
    start: datetime
    end: datetime | None
    status: str = ""
    run_id: str | None = None
    worker: str | None = None
    size: int = 1
    steps: tuple[Step, ...] = ()
    error: Failure | None = None

    @property
    def seconds(self) -> float | None:
        """How long it lasted."""
        return (self.end - self.start).total_seconds() if self.end is not None else None


@dataclass(frozen=True)
class Timeline:
    """All spans, and the completed steps reused from the invocation that this one replays.

    Attributes
    ----------
    usage
        What its own steps have used of language models, if anything.
    """

    spans: list[Span]
    reused: list[StepView]
    usage: Usage | None


def timeline(
    invocation: FullInvocation,
    segments: Sequence[Row],
    batches: Sequence[Row],
    logs: Sequence[LogView],
    now: datetime,
) -> Timeline:
    """Build the timeline of an invocation from its earlier run segments, and its runs' batches."""
    by_run = {batch["run_id"]: batch for batch in batches}
    completed = sorted(
        (step for step in invocation.steps if step.error is None), key=lambda step: step.finished_at
    )
    spans: list[Span] = []
    at, wait = invocation.created_at, "queued"
    runs = _runs(invocation, segments)
    for run in runs:
        batch = by_run.get(run.id, {})
        steps = [step for step in invocation.steps if step.run_id == run.id]
        first_step = min((step.started_at for step in steps), default=run.end or now)
        start = batch.get("started_at") or first_step
        claimed = batch.get("claimed_at") or start
        spans += _waits((wait, at, claimed), ("claimed", claimed, start))
        shown = _with_logs(
            _steps(steps, run.error, start, run.end or now, completed),
            [log for log in logs if log.run_id == run.id],
            "running" if run.end is None else "unfinished",
        )
        spans.append(_span(run, batch, start, shown))
        at, wait = run.end or now, _NEXT.get(run.status, "")
    spans += _last_wait(invocation, at, wait)
    ids = {run.id for run in runs}
    reused = [step for step in invocation.steps if step.run_id not in ids]
    usages = [step.usage for span in spans for step in span.steps if step.usage is not None]
    return Timeline(spans, reused, total(usages))


@dataclass(frozen=True)
class _Run:
    """A run of the invocation, and how its part in it ended, if it has."""

    id: str
    status: str
    end: datetime | None
    error: Failure | None


def _runs(invocation: FullInvocation, segments: Sequence[Row]) -> list[_Run]:
    """The runs in order: those that it left unfinished, and its last one."""
    rows = [(row["run_id"], row["status"], row["ended_at"], row["error"]) for row in segments]
    last = invocation.run_id
    if last is not None and last not in {run_id for run_id, *_ in rows}:
        status = invocation.status if invocation.status in FINAL else "running"
        rows.append((last, status, invocation.finished_at, invocation.error))
    return [
        _Run(run_id, status, end, Failure.model_validate(error) if error else None)
        for run_id, status, end, error in rows
    ]


def _span(run: _Run, batch: Mapping[str, Any], start: datetime, steps: tuple[Step, ...]) -> Span:
    return Span(
        kind="run",
        start=start,
        end=run.end,
        status=run.status,
        run_id=run.id,
        worker=batch.get("worker"),
        size=batch.get("size", 1),
        steps=steps,
        error=run.error,
    )


def _last_wait(invocation: FullInvocation, at: datetime, wait: str) -> list[Span]:
    """What it waits for since its last run, or waited for until it ended."""
    if invocation.status in ("claimed", "grouped"):
        return [Span(invocation.status, at, None)]
    if invocation.status in ("queued", "sleeping", "waiting"):
        return [Span(wait, at, None)]
    if invocation.finished_at is not None:
        return _waits((wait, at, invocation.finished_at))
    return []


def _waits(*waits: tuple[str, datetime, datetime]) -> list[Span]:
    return [Span(kind, start, end) for kind, start, end in waits if end > start]


def _steps(
    steps: Sequence[StepView],
    failure: Failure | None,
    start: datetime,
    end: datetime,
    completed: Sequence[StepView],
) -> tuple[Step, ...]:
    """The steps of a run, including one that failed in it and was overwritten by a later run."""
    length = max((end - start).total_seconds(), 0.001)
    shown = [_step(step, start, length, completed) for step in steps]
    if failure is not None and failure.step and failure.step not in {step.step for step in steps}:
        # Its own times are gone: it failed when its part in the run ended, after the other steps.
        view = StepView(
            step=failure.step,
            tries=0,
            run_id=None,
            output=None,
            error=failure,
            started_at=min(end, max((step.finished_at for step in steps), default=start)),
            finished_at=end,
        )
        shown.append(replace(_step(view, start, length, completed), tries=None))
    return tuple(shown)


def _with_logs(steps: Sequence[Step], logs: Sequence[LogView], status: str) -> tuple[Step, ...]:
    """The steps of a run with their logs; those with nothing but a log have the status."""
    by_step = {log.step: log for log in logs}
    shown = [replace(step, log=by_step.pop(step.name, None)) for step in steps]
    shown += [
        Step(name, status, None, None, None, log.attempt, None, None, log)
        for name, log in by_step.items()
    ]
    return tuple(shown)


def _step(step: StepView, start: datetime, length: float, completed: Sequence[StepView]) -> Step:
    before = bisect_right(completed, step.started_at, key=lambda other: other.finished_at)
    seconds = (step.finished_at - step.started_at).total_seconds()
    begin = min(99.0, max(0.0, 100 * (step.started_at - start).total_seconds() / length))
    width = min(100.0 - begin, max(1.0, 100 * seconds / length))
    return Step(
        name=step.step,
        status="failed" if step.error else "succeeded",
        seconds=seconds,
        begin=round(begin, 2),
        width=round(width, 2),
        tries=step.tries,
        output=step.output,
        error=step.error,
        started_at=step.started_at,
        had=tuple(
            other.step
            for other in completed[max(0, before - _MAX_RESULTS) : before]
            if other.step != step.step
        ),
        more=max(0, before - _MAX_RESULTS),
        usage=usage_of(step.output),
    )
