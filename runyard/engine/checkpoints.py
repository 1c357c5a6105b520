"""The checkpoints of a batch: results of its steps, saved as soon as they are there."""

from collections.abc import Mapping, Sequence

from runyard.engine.chunked_writes import bisect_rejected, chunks
from runyard.errors import LeaseLost
from runyard.store import database
from runyard.store.queries import fetch_all, fetch_one

# Invocation, attempt, output JSON, error JSON, start and end in seconds since the epoch.
StepRow = tuple[int, int, str | None, str | None, float, float]
# Invocation, step, then the same as in a `StepRow`.
PairRow = tuple[int, str, int, str | None, str | None, float, float]
# An invocation and one of its steps.
Pair = tuple[int, str]


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
    rows: list[PairRow] = [(row[0], step, *row[1:]) for row in results]
    sent = {(invocation, step): elements for invocation, elements in (events or {}).items()}
    refused = save_pairs(batch_id, run_id, rows, events=sent)
    return {invocation: reason for (invocation, _), reason in refused.items()}


def save_pairs(
    batch_id: str,
    run_id: str,
    results: Sequence[PairRow],
    *,
    events: Mapping[Pair, str] | None = None,
) -> dict[Pair, str]:
    """Save results of any steps of the batch's invocations, as `save_steps` does those of one.

    Results of the same step of the same invocation are saved in their order. Those of an invocation
    that has left the batch (`settlement.settle_some`) are passed over.

    Returns the pairs of an invocation and a step whose results the database rejects, each with the
    reason. Raises `LeaseLost`.
    """
    sent = events or {}

    def save(some: Sequence[PairRow]) -> None:
        elements = ",".join(sent[row[:2]] for row in some if row[:2] in sent)
        invocations, steps, attempts, outputs, errors, started, finished = (
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
                invocations=invocations,
                steps=steps,
                attempts=attempts,
                outputs=outputs,
                errors=errors,
                started=started,
                finished=finished,
            )
            if row is None:
                raise LeaseLost(batch_id)

    refused: dict[Pair, str] = {}
    for distinct in _distinct(results):
        sized = [
            (row, len(row[3] or "") + len(row[4] or "") + len(sent.get(row[:2], "")))
            for row in distinct
        ]
        for some in chunks(sized):
            refused.update({row[:2]: reason for row, reason in bisect_rejected(some, save)})
    return refused


def _distinct(results: Sequence[PairRow]) -> list[list[PairRow]]:
    """Split results so that none has two of a pair, which one statement could not write."""
    groups: list[list[PairRow]] = []
    seen: dict[Pair, int] = {}
    for row in results:
        number = seen[row[:2]] = seen.get(row[:2], -1) + 1
        if number == len(groups):
            groups.append([])
        groups[number].append(row)
    return groups
