"""Checkpoints: results of steps that an application sends while it is still being called.

A call that may send some names its dispatch, and a checkpoint names the dispatch of its call. A
dispatch ends when the call is answered, when the run loses the invocation, or when the invocation
ends; from then on nothing is kept that names it. The event table counts the dispatches of an
invocation: the claim of a batch begins one, and so does `end_dispatches`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pydantic_core

from runyard.apps.answers import Failed, Keep, Meaning, Retry, TooLarge, results_of
from runyard.apps.run_ids import invocation_of
from runyard.engine.steps import encode
from runyard.errors import InvalidOption, NonRetriable
from runyard.store import database
from runyard.store.queries import Row, fetch_all

MAX_BYTES = 8 * 1024 * 1024
MAX_RESULTS = 1_000
_LONGEST_SECONDS = 86_400.0
_NANOSECONDS = 1e9
_STALE = "StaleDispatchError"


@dataclass(frozen=True)
class Dispatch:
    """What a call tells an application, so that it may send checkpoints.

    Attributes
    ----------
    function
        The function's id as a UUID, which is always the same for a function.
    batch
        The batch whose lease the caller has.
    number
        The number of the dispatch; it grows with each call of an invocation.
    """

    function: str
    batch: str
    number: int

    @property
    def token(self) -> str:
        """What a checkpoint repeats."""
        return f"{self.batch}.{self.number}"


@dataclass(frozen=True)
class Result:
    """A step's result: the name under which it is kept, its memo as JSON, and how long it took."""

    step: str
    output: str
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """What an application sends during a call.

    Attributes
    ----------
    invocation
        The invocation whose run it names.
    batch, dispatch
        The dispatch that it names.
    results
        The results, in the order in which the steps ended.
    received_at
        When it was received, in seconds since the epoch.
    """

    invocation: int
    batch: str
    dispatch: int
    results: Sequence[Result]
    received_at: float

    @property
    def size(self) -> int:
        """The length of the results."""
        return sum(len(result.output) for result in self.results)


@lru_cache(maxsize=2_000)
def function_uuid(slug: str) -> str:
    """Return the UUID by which a function is known to applications that want one."""
    return str(uuid5(NAMESPACE_URL, f"inngest:{slug}"))


def parse_checkpoint(run: str, body: bytes) -> Checkpoint | None:
    """Read a checkpoint of a run; None if it names no dispatch of it.

    Raises `InvalidOption` for one that holds anything but results, and `TooLarge`.
    """
    sent = _object(body)
    invocation, dispatch = invocation_of(run), _dispatch(sent)
    if invocation is None or sent.get("run_id", run) != run:
        raise InvalidOption(f"{run[:40]!r} is not the id of the checkpoint's run")
    steps = sent.get("steps")
    if not isinstance(steps, list):
        raise InvalidOption("a checkpoint has a list of steps")
    if len(steps) > MAX_RESULTS:
        raise TooLarge(f"it has {len(steps):,} steps, and the limit is {MAX_RESULTS:,}")
    results = [_result(keep, op) for keep, op in results_of(steps)]
    if dispatch is None:
        return None
    return Checkpoint(invocation, *dispatch, _last_of_each(results), time.time())


def end_dispatches(batch: str, dispatches: Mapping[int, int]) -> Sequence[Row]:
    """End the dispatches of a batch's invocations, each of which then has the next one.

    Returns what was kept in them: rows of an invocation, a step, and its output, in the order in
    which the steps ended.
    """
    ids, numbers = list(dispatches), list(dispatches.values())
    with database.connection() as connection:
        fetch_all(connection, "end_dispatches", batch=batch, invocations=ids, dispatches=numbers)
        return fetch_all(connection, "checkpointed_steps", invocations=ids, dispatches=numbers)


def without_stale(meaning: Meaning) -> Meaning:
    """Return the meaning of an answer; one of a call that was told to stop ends no run.

    An SDK whose checkpoint is refused as stale answers that the function has failed for good.
    """
    for effect in meaning.effects:
        if isinstance(effect, Failed) and effect.error["name"] == _STALE:
            return Meaning((Retry(effect.error),), meaning.version)
    return meaning


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        sent = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidOption(f"the checkpoint cannot be read: {str(error)[:200]}") from None
    if not isinstance(sent, dict):
        raise InvalidOption("a checkpoint is a JSON object")
    return sent


def _dispatch(sent: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the batch and the number of the dispatch that a checkpoint names."""
    token = sent.get("qi_id")
    batch, _, text = token.rpartition(".") if isinstance(token, str) else ("", "", "")
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    generation = sent.get("generation_id", number)
    return (batch, number) if batch and number and generation == number else None


def _result(keep: Keep, op: Mapping[str, Any]) -> Result:
    try:
        _, text = encode(keep.memo)
    except NonRetriable as error:
        raise InvalidOption(f"step {keep.step.name}: {error}") from None
    return Result(keep.step.name, text, _seconds(op.get("timing")))


def _seconds(timing: object) -> float:
    """Return how long a step took by the application's clock, which may differ from ours."""
    length = timing.get("b") if isinstance(timing, dict) else None
    if isinstance(length, bool) or not isinstance(length, int | float):
        return 0.0
    return min(max(length / _NANOSECONDS, 0.0), _LONGEST_SECONDS)


def _last_of_each(results: Sequence[Result]) -> Sequence[Result]:
    return list({result.step: result for result in results}.values())
