"""The hot statements stay on their indexes when the table is large: no plan may scan it."""

import json

import pytest

from runyard import Event, dispatch, send
from runyard.registry import Function
from runyard.store import database
from runyard.store.queries import statements

HOT: dict[str, dict[str, object]] = {
    "claim": {"function": "greet", "max_batch": 500, "batch": "x"},
    "next_due": {"function": "greet"},
    "begin_invocations": {"batch": "BATCH", "run": "run-1", "finish_within": None},
    "keep_steps": {
        "batch": "BATCH", "run": "run-1", "step": "a", "invocations": [1, 2], "attempts": [1, 1], "outputs": ["1", "1"], "errors": [None, None],
        "started": [1.0, 1.0], "finished": [1.0, 1.0],
    },
    "settle": {"batch": "BATCH", "run": "run-1", "invocations": list(range(1, 501)),
        "statuses": ["succeeded"] * 500, "delays": [0.0] * 500, "outputs": [None] * 500, "errors": [None] * 500, "attempts": [None] * 500,
        "parked": [1, 2], "steps": ["a", "b"],
    },
    "release": {
        "batch": "BATCH", "expected": "running", "status": "queued", "attempts": 3, "delay": 0.0, "error": None, "counted": False, "crashed": True,
        "force": True, "lease": 30.0,
    },
    "recent_events": {"id": None, "name": None, "limit": 50},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOT))
def test_a_hot_statement_does_not_scan_a_large_table(function: Function, name: str) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, finished_at) SELECT 'old' || n, 'greet', 'succeeded', now() FROM generate_series(1, 60000) AS n"
        )
        connection.execute("INSERT INTO runyard.events (id, name, target) SELECT 'old' || n, 'greet/requested', 'nobody' FROM generate_series(1, 60000) AS n")
        connection.execute("ANALYZE runyard.invocations, runyard.events")
    send([Event("greet/requested") for _ in range(20)])
    [first, *_] = dispatch.claim(function) or []
    dispatch.begin(first.batch_id, "run-1")
    parameters = {key: first.batch_id if value == "BATCH" else value for key, value in HOT[name].items()}
    with database.transaction() as connection:
        [row] = connection.execute(b"EXPLAIN (FORMAT JSON) " + statements()[name], parameters).fetchall()
    scanned = [node for node in _nodes(row["QUERY PLAN"][0]["Plan"]) if node["Node Type"] == "Seq Scan" and node["Relation Name"] in ("invocations", "events", "steps")]
    assert scanned == [], json.dumps(scanned, indent=1)


def _nodes(plan: dict[str, object]) -> list[dict[str, object]]:
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    return [plan, *[node for child in children for node in _nodes(child)]]
