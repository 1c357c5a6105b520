"""What an invocation did when: its waits and its runs, each run with its steps, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runyard.gateway.api.schemas import FINAL, Failure, FullInvocation, StepView
from runyard.store.queries import Row

# What it waited for behind a run that it left so.
_BEHIND = {
    "queued": "backoff",
    "sleeping": "sleeping",
    "waiting": "waiting",
    "lost": "queued",
    "failed": "ended",
    "cancelled": "ended",
}


@dataclass(frozen=True)
class Step:
    """A step in a run. `begin` and `width` say where it lies in the run, in per cent; None where its times were not kept."""

    name: str
    status: str
    seconds: float | None
    begin: float | None
    width: float | None
    tries: int | None
    output: Any
    error: Failure | None


@dataclass(frozen=True)
class Span:
    """A stretch of time. `kind` is `run`, or what was waited for: queued, claimed (for its run to begin), backoff, sleeping, waiting, ended (and taken up again).

    `end` is None while it lasts. A run has `status`, `run_id`, `worker`, how many invocations it was for (`size`), and its `steps`.
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
    """All spans, and the steps that were kept from before (of the invocation that this one replays)."""

    spans: list[Span]
    reused: list[StepView]


def timeline(
    invocation: FullInvocation, parts: Sequence[Row], batches: Sequence[Row], now: datetime
) -> Timeline:
    """Put it together of the invocation, the parts that it left unfinished, and the batches of its runs (`batches_of_runs`)."""
    by_run = {batch["run_id"]: batch for batch in batches}
    ended = [(part["run_id"], part["status"], part["ended_at"], part["error"]) for part in parts]
    if invocation.run_id is not None and invocation.run_id not in {run for run, *_ in ended}:
        ended.append(
            (
                invocation.run_id,
                invocation.status if invocation.status in FINAL else "running",
                invocation.finished_at,
                invocation.error,
            )
        )
    runs = {run for run, *_ in ended}
    spans: list[Span] = []
    at, waiting = invocation.created_at, "queued"
    for run, status, end, error in ended:
        batch = by_run.get(run, {})
        steps = [step for step in invocation.steps if step.run_id == run]
        start = batch.get("started_at") or min(
            (step.started_at for step in steps), default=end or now
        )
        claimed = batch.get("claimed_at") or start
        spans += [
            Span(kind, begin, until)
            for kind, begin, until in ((waiting, at, claimed), ("claimed", claimed, start))
            if until > begin
        ]
        failure = Failure.model_validate(error) if error else None
        shown = _steps(steps, failure, start, end or now)
        spans.append(
            Span(
                "run",
                start,
                end,
                status,
                run,
                batch.get("worker"),
                batch.get("size", 1),
                shown,
                failure,
            )
        )
        at, waiting = end or now, _BEHIND.get(status, "")
    if invocation.status in ("queued", "claimed", "sleeping", "waiting"):
        spans.append(Span(waiting if invocation.status != "claimed" else "claimed", at, None))
    elif invocation.finished_at is not None and invocation.finished_at > at:
        spans.append(Span(waiting, at, invocation.finished_at))
    return Timeline(spans, [step for step in invocation.steps if step.run_id not in runs])


def _steps(
    steps: Sequence[StepView], failure: Failure | None, start: datetime, end: datetime
) -> tuple[Step, ...]:
    """The steps of a run; the one that failed in it too, where a later run has overwritten what was kept of it."""
    length = max((end - start).total_seconds(), 0.001)
    found = [_step(step, start, length) for step in steps]
    if failure is not None and failure.step and failure.step not in {step.step for step in steps}:
        found.append(Step(failure.step, "failed", None, None, None, None, None, failure))
    return tuple(found)


def _step(step: StepView, start: datetime, length: float) -> Step:
    seconds = (step.finished_at - step.started_at).total_seconds()
    begin = min(99.0, max(0.0, 100 * (step.started_at - start).total_seconds() / length))
    width = min(100.0 - begin, max(1.0, 100 * seconds / length))
    return Step(
        step.step,
        "failed" if step.error else "succeeded",
        seconds,
        round(begin, 2),
        round(width, 2),
        step.tries,
        step.output,
        step.error,
    )
