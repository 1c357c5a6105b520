"""Writes what the calls of a batch have brought, a few times in a second for all of them together.

Everything is durable when its `await` returns: a step's result is kept before the application is
called again.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from runyard.apps.call_loop import in_thread
from runyard.apps.checkpoints import end_dispatches
from runyard.engine.backoff import Backoff
from runyard.engine.checkpoints import Pair, PairRow, save_pairs
from runyard.engine.settlement import Outcome, settle_some
from runyard.engine.tasks import end_task
from runyard.engine.wait_registration import register_storable_pairs
from runyard.errors import DatabaseUnavailable
from runyard.store.queries import Row

_FLUSH_SECONDS = 0.01
_LONGEST_PAUSE = 2.0
_log = logging.getLogger("runyard.apps.writer")
_Waiter = "asyncio.Future[None]"


class Writer:
    """The writes of one batch; an async context manager.

    Parameters
    ----------
    batch_id, run_id
        The lease under which everything is written.
    """

    def __init__(self, batch_id: str, run_id: str) -> None:
        self._batch_id = batch_id
        self._run_id = run_id
        self._rows: list[PairRow] = []
        self._requests: list[Mapping[str, Any]] = []
        self._events: dict[Pair, str] = {}
        self._outcomes: list[Outcome] = []
        self._dispatches: dict[int, int] = {}
        self._written: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._due = asyncio.Event()

    async def __aenter__(self) -> "Writer":
        self._task = asyncio.create_task(self._flush_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_task(self._task)

    async def keep(
        self, rows: Sequence[PairRow], dispatches: Mapping[int, int] | None = None
    ) -> "Written":
        """Save results of steps, and end the dispatches of calls that were answered."""
        self._rows.extend(rows)
        self._dispatches.update(dispatches or {})
        return await self._flushed()

    async def wait(
        self, requests: Sequence[Mapping[str, Any]], events: Mapping[Pair, str]
    ) -> "Written":
        """Register waits, and send the events that belong to those that are new."""
        self._requests.extend(requests)
        self._events.update(events)
        return await self._flushed()

    async def settle(self, outcome: Outcome) -> None:
        """Write what has become of an invocation, which leaves the batch."""
        self._outcomes.append(outcome)
        await self._flushed()

    async def _flushed(self) -> "Written":
        self._due.set()
        return await asyncio.shield(self._written)

    async def _flush_forever(self) -> None:
        while True:
            await self._due.wait()
            await asyncio.sleep(_FLUSH_SECONDS)
            self._due.clear()
            written, self._written = self._written, asyncio.get_running_loop().create_future()
            work = _Work(
                self._batch_id,
                self._run_id,
                self._rows,
                self._requests,
                self._events,
                self._outcomes,
                self._dispatches,
            )
            self._rows, self._requests, self._events, self._outcomes = [], [], {}, []
            self._dispatches = {}
            try:
                written.set_result(await _write(work))
            except BaseException as error:
                if not written.done():
                    written.set_exception(error)
                written.exception()  # whoever waits for it raises it
                if isinstance(error, asyncio.CancelledError):
                    raise


async def _write(work: "_Work") -> "Written":
    """Write, again and again while the database is away: whose lease it is, it says afterwards."""
    backoff = Backoff(_log, "what calls have brought cannot be saved", _LONGEST_PAUSE)
    while True:
        try:
            written = await in_thread(work.write)
        except DatabaseUnavailable as error:
            await asyncio.sleep(backoff.failed(error))
        else:
            backoff.succeeded()
            return written


class Written:
    """What a flush has found.

    Attributes
    ----------
    refused
        The results and waits that the database rejects, with the reasons.
    waits
        How the waits stand.
    checkpointed
        By invocation, the steps that were kept in its dispatch before that ended, in their order.
    """

    def __init__(self) -> None:
        self.refused: dict[Pair, str] = {}
        self.waits: dict[Pair, Row] = {}
        self.checkpointed: dict[int, list[Row]] = {}


class _Work:
    def __init__(
        self,
        batch_id: str,
        run_id: str,
        rows: Sequence[PairRow],
        requests: Sequence[Mapping[str, Any]],
        events: Mapping[Pair, str],
        outcomes: Sequence[Outcome],
        dispatches: Mapping[int, int],
    ) -> None:
        self._lease = (batch_id, run_id)
        self._rows = rows
        self._requests = requests
        self._events = events
        self._outcomes = outcomes
        self._dispatches = dispatches

    def write(self) -> Written:
        written = Written()
        if self._rows:
            written.refused.update(save_pairs(*self._lease, self._rows))
        if self._dispatches:
            for row in end_dispatches(self._lease[0], self._dispatches):
                written.checkpointed.setdefault(row["invocation_id"], []).append(row)
        if self._requests:
            found, refused = register_storable_pairs(*self._lease, self._requests, self._children)
            written.waits = {(row["invocation_id"], row["step"]): row for row in found}
            written.refused.update(refused)
        settle_some(*self._lease, self._outcomes)
        return written

    def _children(self, new: set[Pair]) -> str | None:
        events = [self._events[pair] for pair in sorted(new) if pair in self._events]
        return f"[{','.join(events)}]" if events else None


def pair_row(
    pair: Pair, attempt: int, output: str | None, error: str | None, started: float
) -> PairRow:
    """Return a step's result, which has ended now, as it is saved."""
    return (*pair, attempt, output, error, started, time.time())
