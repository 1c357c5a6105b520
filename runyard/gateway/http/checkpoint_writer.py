"""Writes the checkpoints of many requests with one statement."""

from collections.abc import Sequence
from typing import Self

from runyard.apps.checkpoints import Checkpoint
from runyard.apps.journey import MAX_MEMO_BYTES, MAX_STEPS
from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.gateway.http.group_commit import GroupCommit

_MOST_BYTES = 16 * 1024 * 1024
_OVERHEAD = 1_000  # of a checkpoint, so that a statement has a bounded number of them


class CheckpointWriter:
    """Writes checkpoints; an async context manager."""

    def __init__(self) -> None:
        self._group = GroupCommit(
            ReconnectingConnection("web checkpoints", by_indexes=True),
            _keep,
            size=lambda checkpoint: checkpoint.size + _OVERHEAD,
            most=_MOST_BYTES,
            key=lambda checkpoint: checkpoint.invocation,
        )

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._group.__aexit__()

    async def keep(self, checkpoint: Checkpoint) -> str:
        """Write a checkpoint; return what has become of it (`keep_checkpoints`).

        Raises `DatabaseUnavailable`, and the errors of psycopg for what the database rejects.
        """
        return await self._group.put(checkpoint)


async def _keep(
    connection: ReconnectingConnection, checkpoints: Sequence[Checkpoint]
) -> Sequence[str]:
    results = [(each, result) for each in checkpoints for result in each.results]
    rows = await connection.fetch_all(
        "keep_checkpoints",
        invocations=[each.invocation for each in checkpoints],
        batches=[each.batch for each in checkpoints],
        dispatches=[each.dispatch for each in checkpoints],
        owners=[each.invocation for each, _ in results],
        steps=[result.step for _, result in results],
        outputs=[result.output for _, result in results],
        started=[each.received_at - result.seconds for each, result in results],
        finished=[each.received_at for each, _ in results],
        most_steps=MAX_STEPS,
        most_bytes=MAX_MEMO_BYTES,
    )
    outcomes = {row["id"]: row["outcome"] for row in rows}
    return [outcomes[each.invocation] for each in checkpoints]
