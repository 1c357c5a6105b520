"""The checkpoints of a batch: results of its steps, saved as soon as they are there."""

from collections.abc import Mapping, Sequence

from runyard.engine.chunked_writes import bisect_rejected, chunks
from runyard.errors import LeaseLost
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one

# Invocation, attempt, output JSON, error JSON, start and end in seconds since the epoch.
StepRow = tuple[int, int, str | None, str | None, float, float]


def save_steps(
    batch_id: str,
    run_id: str,
    step: str,
    results: Sequence[StepRow],
    *,
    events: Mapping[int, str] | None = None,
) -> dict[int, str]:
    """Save results of a step.

    Parameters
    ----------
    events
        By invocation, events to send in the same transaction as its result: elements of the array
        for `runyard.send_v1`, separated by commas.

    Returns
    -------
    The invocations whose results the database rejects, each with the reason; nothing of these is
    saved.

    Raises
    ------
    LeaseLost
        Another run has the batch; nothing is saved.
    """
    sent = events or {}

    def save(some: Sequence[StepRow]) -> None:
        elements = ",".join(sent[row[0]] for row in some if row[0] in sent)
        invocations, attempts, outputs, errors, started, finished = (
            list(column) for column in zip(*some, strict=True)
        )
        with database.transaction() if elements else database.connection() as connection:
            if elements:
                fetch_all(connection, "send", events=f"[{elements}]", source="step")
            row = fetch_one(
                connection,
                "record_steps",
                batch=batch_id,
                run=run_id,
                step=step,
                invocations=invocations,
                attempts=attempts,
                outputs=outputs,
                errors=errors,
                started=started,
                finished=finished,
            )
            if row is None:
                raise LeaseLost(batch_id)

    sized = [
        (row, len(row[2] or "") + len(row[3] or "") + len(sent.get(row[0], ""))) for row in results
    ]
    rejected = [bad for some in chunks(sized) for bad in bisect_rejected(some, save)]
    return {row[0]: reason for row, reason in rejected}
