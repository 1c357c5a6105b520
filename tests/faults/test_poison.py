"""Events whose step kills its process are found in few runs, and harm no other event."""

import pytest

from runyard import Event, send
from runyard.processes.stack import Stack
from tests.conftest import settled, wait_until
from tests.tables import rows

ATTEMPTS = 3


def runs_of(ids: list[str]) -> int:
    """How many runs have begun invocations of these events."""
    [row] = rows(
        "SELECT count(*) AS runs FROM runyard.batches"
        " WHERE started_at IS NOT NULL AND invocations &&"
        " (SELECT array_agg(id) FROM runyard.invocations WHERE event_id = ANY (%s))",
        ids,
    )
    return int(row["runs"])


# Two runs with all of them; for each poison event at most seven halves, and its attempts alone; and
# two for those that were left out of each search.
@pytest.mark.parametrize(
    ("poisons", "most_runs"),
    [([37], 2 + 7 + 2 + ATTEMPTS), ([10, 50, 90], 2 + 3 * (7 + 2 + ATTEMPTS))],
)
def test_events_that_kill_their_process_are_found_by_bisection_and_the_others_succeed(
    stack: Stack, poisons: list[int], most_runs: int
) -> None:
    ids = send([Event("test/swallow", {"poison": n in poisons}) for n in range(100)])
    final = (
        "SELECT count(*) AS n FROM runyard.invocations"
        " WHERE event_id = ANY (%s) AND status IN ('succeeded', 'failed')"
    )
    wait_until(lambda: rows(final, ids) == [{"n": 100}], 200)
    ended = [settled(event_id) for event_id in ids]
    assert [n for n in range(100) if ended[n]["status"] == "failed"] == poisons
    assert {(row["status"], row["attempt"]) for row in ended} == {
        ("succeeded", 1),
        ("failed", ATTEMPTS),
    }
    assert all("with nothing else in the run" in ended[n]["error"]["message"] for n in poisons)
    assert runs_of(ids) <= most_runs
