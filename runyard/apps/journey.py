"""The way of one invocation through a remote function: what is done, what is out, what comes next.

It holds no connection and no clock: the driver tells it what calls have answered and which steps
are done, and asks what to do next.

A function is called again and again, and goes a little further each time. Steps that it wants at
the same time run in calls of their own. How long the function itself then waits depends on the
version of its SDK: in version 1 it is called after each step of the group, in version 2 when all
of them are done, unless they are in a race.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from runyard.apps.answers import (
    Again,
    Effect,
    Failed,
    Invoke,
    Keep,
    MakeRequest,
    Meaning,
    Plan,
    Retry,
    Sleep,
    Step,
    StepFailed,
    Succeeded,
    Unsupported,
    WaitForEvent,
    WaitForSignal,
    error_of,
)
from runyard.apps.requests import FIRST_VERSION, Memos

MAX_STEPS = 1_000
MAX_MEMO_BYTES = 32 * 1024 * 1024
_IN_STEPS = 1  # the version of parallelism in which the function is called after each step
_IN_GROUPS = 2  # that in which it is called when all steps of a group are done
# How often a function may be called without getting further: when it says that it has nothing to
# do, and when it asks for it, as one does that has used up its time.
_MOST_IDLE_CALLS, _MOST_CALLS_AGAIN = 2, 10

Wait = Sleep | WaitForEvent | WaitForSignal | Invoke
Ending = Succeeded | Failed


class Next(Enum):
    """What the driver has to do."""

    CALL = "call the function"
    AWAIT = "wait for a call that is out"
    PARK = "leave the invocation until one of its waits is over"
    RETRY = "leave it until its next attempt"
    END = "write down how it has ended"


@dataclass
class Todo:
    """What an answer has brought.

    These are results to keep, failed tries, steps to call, requests to make, and waits to begin.
    """

    keeps: list[Keep] = field(default_factory=list[Keep])
    failures: list[StepFailed] = field(default_factory=list[StepFailed])
    plans: list[Step] = field(default_factory=list[Step])
    requests: list[MakeRequest] = field(default_factory=list[MakeRequest])
    waits: list[Wait] = field(default_factory=list[Wait])


class Journey:
    """The state of one invocation in a run.

    Parameters
    ----------
    memos
        The steps that are done already.
    waiting
        The steps whose waits are under way already, by their ids.
    """

    def __init__(self, memos: Memos, waiting: Iterable[str] = ()) -> None:
        self.memos = memos
        self.waiting = dict.fromkeys(waiting, False)  # by id: whether it is in a race
        self.calling: dict[str, bool] = {}
        self.version = FIRST_VERSION
        self.in_parallel = bool(self.waiting)
        self.ending: Ending | None = None
        self.retry: Retry | None = None
        self.step_retry: float | None = None
        self.has_step_failed = False
        self._is_changed = True
        self._idle_calls = 0
        self._steps_before = 0

    def begin_call(self) -> None:
        """Note that the function is being called: what is done from now on is news to it."""
        self._is_changed = False
        if self.version == _IN_GROUPS and not self._is_busy():
            self.in_parallel = False

    def take(self, meaning: Meaning) -> Todo:
        """Take what a call of the function has answered."""
        if meaning.version is not None and self.version == FIRST_VERSION:
            self.version = meaning.version
        new = [effect for effect in meaning.effects if not self._is_known(effect)]
        # Results are those of steps that ended one after the other.
        steps = sum(1 for effect in new if not isinstance(effect, Ending | Retry | Again | Keep))
        self.in_parallel = self.in_parallel or steps > 1
        todo = Todo()
        for effect in new:
            self._take(effect, todo)
        self._count_idle(new)
        self._check_limits()
        return todo

    def take_step(self, step: Step, meaning: Meaning) -> Todo:
        """Take what a call of one step has answered."""
        todo = Todo()
        for effect in meaning.effects:
            if isinstance(effect, Failed):
                self._end(effect)
            elif isinstance(effect, Retry):
                self._take(StepFailed(step, effect.error, effect.after), todo)
            elif isinstance(effect, Keep | StepFailed | Unsupported) and effect.step.id == step.id:
                self._take(effect, todo)
        if not todo.keeps:
            self.calling.pop(step.id, None)
        return todo

    def done(self, step: str, memo: Any, *, of_wait: bool = False) -> None:
        """Note that a step is done, and its result is kept."""
        is_race = self.calling.pop(step, False) or self.waiting.pop(step, False)
        if step not in self.memos:
            self.memos.add(step, memo)
        # A step that the function itself has run is no news, but the function has to go on.
        if of_wait or is_race or self._is_called_after_each() or not self._is_busy():
            self._is_changed = True
        self._check_limits()

    def checkpointed(self, step: str, memo: Any) -> None:
        """Note that a step was done and kept before the function's call was answered."""
        if step not in self.memos:
            self.memos.add(step, memo)
        self._check_limits()

    def fail(self, error: Mapping[str, Any]) -> None:
        """Note that the run has failed for good, whatever its application would say."""
        self._end(Failed(error))

    def next(self) -> Next:
        """Return what has to be done."""
        if self.ending is not None:
            return Next.END
        if self.retry is not None or self.has_step_failed:
            return Next.AWAIT if self.calling else Next.RETRY
        if self._is_changed:
            return Next.CALL
        if self.calling:
            return Next.AWAIT
        if self.waiting:
            return Next.PARK
        return Next.CALL

    def _is_busy(self) -> bool:
        return bool(self.calling or self.waiting)

    def _is_called_after_each(self) -> bool:
        return self.version == _IN_STEPS or any(self.waiting.values()) or any(self.calling.values())

    def _is_known(self, effect: Effect) -> bool:
        step = getattr(effect, "step", None)
        return step is not None and (
            step.id in self.memos or step.id in self.waiting or step.id in self.calling
        )

    def _take(self, effect: Effect, todo: Todo) -> None:
        match effect:
            case Keep():
                todo.keeps.append(effect)
            case Unsupported():
                error = error_of("Unsupported", effect.message)
                todo.keeps.append(Keep(effect.step, {"error": error}))
            case StepFailed():
                todo.failures.append(effect)
                self.has_step_failed = True
                if effect.after is not None:
                    self.step_retry = max(effect.after, self.step_retry or 0.0)
            case Plan():
                todo.plans.append(effect.step)
                self.calling[effect.step.id] = effect.step.is_race
            case MakeRequest():
                todo.requests.append(effect)
                self.calling[effect.step.id] = effect.step.is_race
            case Sleep() | WaitForEvent() | WaitForSignal() | Invoke():
                todo.waits.append(effect)
                self.waiting[effect.step.id] = effect.step.is_race
            case Again():
                self._is_changed = True
            case Retry():
                self.retry = effect
            case Succeeded() | Failed():
                self._end(effect)

    def _end(self, ending: Ending) -> None:
        if self.ending is None:
            self.ending = ending

    def _count_idle(self, new: Sequence[Effect]) -> None:
        """End a function that gets no further, and is not done either."""
        steps = len(self.memos.texts)
        asks_again = bool(new) and all(isinstance(effect, Again) for effect in new)
        is_idle = not new and not self._is_busy() and not self._is_changed
        if not (is_idle or asks_again) or steps != self._steps_before:
            self._idle_calls = 0
        self._steps_before = steps
        self._idle_calls += is_idle or asks_again
        if is_idle and self._idle_calls >= _MOST_IDLE_CALLS:
            message = "the application answers that it has nothing to do, and is not done either"
            self._end(Failed(error_of("NoAnswer", message)))
        elif self._idle_calls >= _MOST_CALLS_AGAIN:
            message = "the application asks to be called again and again, and gets no further"
            self._end(Failed(error_of("NoAnswer", message)))

    def _check_limits(self) -> None:
        count = len(self.memos.texts) + len(self.waiting) + len(self.calling)
        size = self.memos.size
        if count > MAX_STEPS:
            message = f"the run has more than {MAX_STEPS:,} steps: send an event for the rest"
            self._end(Failed(error_of("TooManySteps", message)))
        elif size > MAX_MEMO_BYTES:
            message = f"the results of the run's steps have {size:,} bytes, and the limit is 32 MiB"
            self._end(Failed(error_of("TooLarge", message)))
