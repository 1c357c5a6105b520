"""Frequent statements use their indexes on large tables: no plan may scan one whole."""

import json
from typing import Any

import psycopg
import pytest

from runyard import Event, send
from runyard.engine import batch_claims, batch_leases, housekeeping, settlement, wait_registration
from runyard.engine.due import seconds_until_due
from runyard.functions.flow_control import (
    BatchEvents,
    CancelOn,
    Concurrency,
    Debounce,
    Flow,
    Idempotency,
    RateLimit,
    Singleton,
    Throttle,
    Timeouts,
)
from runyard.functions.registry import Function
from runyard.store import database
from runyard.store.queries import statements
from tests.conftest import Publish
from tests.tables import wait_for_the_end_of_others

HOT: dict[str, dict[str, object]] = {
    "claim": {"function": "greet", "max_batch": 500, "batch": "x"},
    "next_due": {"function": "greet"},
    "due_functions": {},
    "begin_invocations": {"batch": "BATCH", "run": "run-1", "finish_timeout": None},
    "record_steps": {
        "batch": "BATCH",
        "run": "run-1",
        "invocations": [1, 2],
        "steps": ["a", "a"],
        "attempts": [1, 1],
        "outputs": ["1", "1"],
        "errors": [None, None],
        "started": [1.0, 1.0],
        "finished": [1.0, 1.0],
    },
    "settle": {
        "batch": "BATCH",
        "run": "run-1",
        "ends": True,
        "invocations": list(range(1, 501)),
        "statuses": ["succeeded"] * 500,
        "delays": [0.0] * 500,
        "outputs": [None] * 500,
        "errors": [None] * 500,
        "attempts": [None] * 500,
        "suspended": [1, 2],
        "steps": ["a", "b"],
    },
    "keep_checkpoints": {
        "invocations": [1, 2],
        "batches": ["BATCH", "BATCH"],
        "dispatches": [1, 1],
        "owners": [1, 2, 2],
        "steps": ["a", "a", "b"],
        "outputs": ["1", "1", "1"],
        "started": [1.0, 1.0, 1.0],
        "finished": [1.0, 1.0, 1.0],
        "most_steps": 1_000,
        "most_bytes": 1_000,
    },
    "end_dispatches": {"batch": "BATCH", "invocations": [1, 2], "dispatches": [1, 1]},
    "checkpointed_steps": {"invocations": [1, 2], "dispatches": [1, 1]},
    "finished_waits": {"batch": "BATCH", "run": "run-1", "invocations": [1, 2]},
    "release": {
        "batch": "BATCH",
        "expected": "running",
        "status": "queued",
        "attempts": 3,
        "delay": 0.0,
        "error": '{"message": ""}',
        "crashed": True,
        "failed": True,
        "force": True,
        "lease": 30.0,
        "first_delay": 1.0,
        "most_delay": 120.0,
    },
    "recent_events": {"id": None, "name": None, "limit": 50},
}
HOT["settle some"] = {**HOT["settle"], "ends": False}


def statement(name: str) -> bytes:
    """The statement of an entry of `HOT`, whose name may say more behind a space."""
    return statements()[name.split()[0]]


@pytest.mark.parametrize("name", sorted(HOT))
def test_a_hot_statement_does_not_scan_a_large_table(function: Function, name: str) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, finished_at)"
            " SELECT 'old' || n, 'greet', 'succeeded', now() FROM generate_series(1, 60000) AS n"
        )
        connection.execute(
            "INSERT INTO runyard.events (id, name, target)"
            " SELECT 'old' || n, 'greet/requested', 'nobody' FROM generate_series(1, 60000) AS n"
        )
        connection.execute("ANALYZE runyard.invocations, runyard.events")
    send([Event("greet/requested") for _ in range(20)])
    [first, *_] = batch_claims.claim(function) or []
    batch_leases.begin(first.batch_id, "run-1")
    parameters = {
        key: first.batch_id if value == "BATCH" else value for key, value in HOT[name].items()
    }
    with database.transaction() as connection:
        [row] = connection.execute(
            b"EXPLAIN (FORMAT JSON) " + statement(name), parameters
        ).fetchall()
    assert _read_whole(row["QUERY PLAN"]) == []


@pytest.mark.parametrize("name", sorted(HOT))
def test_a_plan_made_while_the_tables_are_empty_does_for_large_ones(
    function: Function, name: str
) -> None:
    with database.transaction() as connection:
        connection.execute(
            "ANALYZE runyard.invocations, runyard.events, runyard.steps, runyard.batches"
        )
        [row] = connection.execute(
            b"EXPLAIN (FORMAT JSON) " + statement(name), HOT[name]
        ).fetchall()
    assert _read_whole(row["QUERY PLAN"]) == []


SUSPECTS = {
    "alone": "CASE WHEN id <= 3000 THEN 'isolated' END",
    "nothing known": "NULL",
    "searched": "CASE WHEN id <= 400 THEN 'bisecting' END",
}


@pytest.mark.parametrize("suspects", sorted(SUSPECTS))
def test_a_claim_does_not_walk_over_those_that_lost_two_workers(
    function: Function, suspects: str
) -> None:
    send([Event("greet/requested") for _ in range(6000)])
    with database.connection() as connection:
        suspect = f"crashes = 2, started_at = now(), suspect = {SUSPECTS[suspects]}"
        connection.execute(f"UPDATE runyard.invocations SET {suspect} WHERE id <= 3000".encode())
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, finished_at)"
            " SELECT 'old' || n, 'greet', 'succeeded', now() FROM generate_series(1, 60000) AS n"
        )
        connection.execute("ANALYZE runyard.invocations")
    lost = batch_claims.claim(function) or []
    batch_leases.begin(lost[-1].batch_id, "run-1")
    for name in ("claim", "next_due", "release"):
        parameters = {
            key: lost[-1].batch_id if value == "BATCH" else value
            for key, value in HOT[name].items()
        }
        with database.connection() as connection, connection.transaction(force_rollback=True):
            [row] = connection.execute(
                b"EXPLAIN (ANALYZE, FORMAT JSON) " + statements()[name], parameters
            ).fetchall()
        nodes = _nodes(row["QUERY PLAN"][0]["Plan"])
        walked = [
            node
            for node in nodes
            if "Index Name" in node
            and (node.get("Rows Removed by Filter") or node["Actual Rows"] > 500)
        ]  # type: ignore[operator]
        assert walked == [], json.dumps(walked, indent=1)
        assert {
            node["Node Type"]
            for node in nodes
            if node.get("Alias", "").startswith(("invocations", "others"))
        } <= READ_BY_INDEX  # type: ignore[attr-defined]


READ_BY_INDEX = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan", "ModifyTable"}


GROWING = ("invocations", "events", "steps")


def _read_whole(plan: Any, *tables: str) -> list[dict[str, object]]:
    """The nodes of a plan that scan one of these tables; by default, of those that grow."""
    return [
        node
        for node in _nodes(plan[0]["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in (tables or GROWING)
    ]


def _nodes(plan: dict[str, object]) -> list[dict[str, object]]:
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    return [plan, *[node for child in children for node in _nodes(child)]]


FLOWS = {
    "limits": Flow(
        concurrency=(Concurrency(5, key="data.k"), Concurrency(9)),
        throttle=Throttle(600, 60, key="data.k", burst=100),
        timeouts=Timeouts(start=60, finish=60),
    ),
    "admission": Flow(
        rate_limit=RateLimit(50, 60, key="data.k"),
        idempotency=Idempotency("data.n"),
        debounce=Debounce(1, key="data.k"),
    ),
    "single": Flow(
        singleton=Singleton("cancel", key="data.n"),
        cancel_on=(CancelOn("other/event", match="data.k"),),
    ),
    "expressions": Flow(
        concurrency=(Concurrency(5, key="event.data.k + '-' + event.name"),),
        cancel_on=(
            CancelOn(
                "other/event",
                condition="async.data.k == event.data.k && async.data.n > event.data.n",
            ),
        ),
    ),
    "gathered": Flow(batch=BatchEvents(5, 1, key="data.k")),
}


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_flow_control_and_waits_never_scan_a_large_table(
    publish_functions: Publish, name: str
) -> None:
    function = Function(name, "some_job", (f"{name}/go",), flow=FLOWS[name])
    listening = Function("listening", "some_job", ("runyard/function.finished",))
    publish_functions(function, listening)
    with database.connection() as connection:
        statement = (
            "INSERT INTO runyard.invocations (event_id, function, status, finished_at, keys)"
            " SELECT 'old' || n, %s, 'succeeded', now(), '{}' FROM generate_series(1, 60000) AS n"
        )
        connection.execute(statement.encode(), (name,))
        connection.execute(
            "INSERT INTO runyard.events (id, name, target)"
            " SELECT 'old' || n, 'other/event', 'nobody' FROM generate_series(1, 60000) AS n"
        )
        connection.execute("ANALYZE runyard.invocations, runyard.events")
    before = _scans()
    send([Event(f"{name}/go", {"k": n % 3, "n": n}) for n in range(30)])
    for claim in batch_claims.claim(function) or []:
        begun = batch_leases.begin(claim.batch_id, "run-1")
        assert begun is not None
        invocations = [row["id"] for row in begun[1]]
        asked = [
            {
                "invocation": one,
                "kind": "event",
                "event": "other/event",
                "seconds": 60,
                "match_paths": [["data", "k"]],
                "match_values": [7],
                "condition": [">", ["path", ["async", "data", "k"]], ["lit", 6]],
            }
            for one in invocations
        ]
        wait_registration.register_waits(claim.batch_id, "run-1", "wait", asked)
        settlement.settle(
            claim.batch_id,
            "run-1",
            [settlement.Outcome(one, "waiting", suspended=("wait",)) for one in invocations],
        )
    send("other/event", {"k": 7})
    housekeeping.match_waits()
    housekeeping.expire()
    housekeeping.apply_deferred_requests()
    for claim in batch_claims.claim(function) or []:
        begun = batch_leases.begin(claim.batch_id, "run-2")
        assert begun is not None
        settlement.settle(
            claim.batch_id,
            "run-2",
            [settlement.Outcome(row["id"], "succeeded") for row in begun[1]],
        )
    seconds_until_due(function)
    housekeeping.purge()
    assert _scans() == before


def test_a_claim_looks_up_its_keys_with_plans_that_were_made_for_empty_tables(
    publish_functions: Publish,
) -> None:
    function = Function(
        "keyed",
        "some_job",
        ("keyed/go",),
        max_batch=500,
        flow=Flow(
            throttle=Throttle(6000, 60, key="data.n", burst=100),
            rate_limit=RateLimit(50, 60, key="data.n"),
            idempotency=Idempotency("data.n"),
        ),
    )
    publish_functions(function)
    with database.connection() as connection:
        connection.execute("ANALYZE runyard.flow_control_state")
    database.close_pool()
    claim = "SELECT size FROM runyard.claim_v1('keyed', %s, 500)"
    with database.connection() as connection:
        send([Event("keyed/go", {"n": n}) for n in range(3)])
        connection.execute(claim, ("first",))
        connection.execute(
            "INSERT INTO runyard.flow_control_state (function, kind, key, until)"
            " SELECT 'other', 'rate', n::text, 'infinity' FROM generate_series(1, 5000) AS n"
        )
        send([Event("keyed/go", {"n": n}) for n in range(3, 103)])
        before = _entries_read(connection)
        connection.execute(claim, ("second",))
        # 100 keys, each looked up a few times; to walk through the index once reads 5,000.
        assert _entries_read(connection) - before < 2_000


def _entries_read(connection: psycopg.Connection[dict[str, object]]) -> int:
    """How many entries of the indexes of flow_control_state have been read so far."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    [row] = connection.execute(
        "SELECT coalesce(sum(idx_tup_read), 0)::bigint AS n FROM pg_stat_user_indexes"
        " WHERE relid = 'runyard.flow_control_state'::regclass"
    ).fetchall()
    return int(str(row["n"]))


def _scans() -> dict[str, int]:
    """Sequential scans so far; a connection reports its own when it ends, at the latest."""
    database.close_pool()
    with database.connection() as connection:
        wait_for_the_end_of_others(connection)
        rows = connection.execute(
            "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'runyard'"
            " AND relname IN ('invocations', 'events', 'steps')"
        ).fetchall()
    return {str(row["relname"]): int(str(row["seq_scan"])) for row in rows}


LOOKS: dict[str, dict[str, object]] = {
    "search_events": {
        "name": None,
        "ids": None,
        "since": None,
        "until": None,
        "cursor_at": None,
        "cursor_id": None,
        "chunk": 20_000,
        "status": None,
        "filter": None,
        "internal": False,
        "limit": 51,
    },
    "search_events_end": {
        "name": None,
        "ids": None,
        "since": None,
        "until": None,
        "cursor_at": None,
        "cursor_id": None,
        "chunk": 20_000,
    },
    "events_by_any_id": {"given": "old7", "number": 7},
    "invocation_summaries": {"events": ["old7", "old8"], "each": 6},
    "caused_events": {"event": "old7", "limit": 200},
    "run_segments": {"invocation": 7},
    "batches_of_runs": {"runs": ["run-1"]},
    "replays_of": {"event": "old7", "invocation": 7},
    "latest_progress": {"invocation": 7},
    "blockers": {"invocation": 7},
    "function_stats": {"most": 10_000},
    "latest_of_function": {"function": "greet", "limit": 50},
    "open_invocations": {"function": "greet"},
    "recent_event_count": {},
    "open_batches": {},
    "run_invocations_now": {"invocations": [7]},
}


def test_the_dev_page_looks_at_a_large_table_by_its_indexes(function: Function) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, created_at, finished_at)"
            " SELECT 'old' || n, 'greet', 'succeeded', now() - n * interval '1 second', now()"
            " FROM generate_series(1, 60000) AS n"
        )
        connection.execute(
            "INSERT INTO runyard.events (id, name, target, received_at)"
            " SELECT 'old' || n, 'greet/requested', 'nobody', now() - n * interval '1 second'"
            " FROM generate_series(1, 60000) AS n"
        )
        connection.execute(
            "INSERT INTO runyard.batches (id, function, status, invocations, run_id)"
            " SELECT n, 'greet', 'finished', '{1}', 'run' || n FROM generate_series(1, 60000) AS n"
        )
        connection.execute(
            "INSERT INTO runyard.run_segments (invocation_id, run_id, status)"
            " SELECT n, 'run' || n, 'queued' FROM generate_series(1, 60000) AS n"
        )
        connection.execute(
            "ANALYZE runyard.invocations, runyard.events, runyard.batches, runyard.run_segments"
        )
    for name, parameters in LOOKS.items():
        with database.transaction() as connection:
            connection.execute(b"SET LOCAL plan_cache_mode = force_custom_plan")
            [row] = connection.execute(
                b"EXPLAIN (FORMAT JSON) " + statement(name), parameters
            ).fetchall()
        assert _read_whole(row["QUERY PLAN"], *GROWING, "batches", "run_segments") == [], name


OUTPUT: dict[str, dict[str, object]] = {
    "run_output": {"key": "run-7/x", "streams": ["out", "err"], "places": [0, 0], "most": 9},
    "run_output_exists": {"key": "run-7/x", "stream": "out"},
    "run_output_keys": {"prefix": "run-7", "stream": "out"},
    "save_run_output": {"key": "run-7/x", "streams": ["out"], "starts": [0], "contents": [b"x"]},
    "delete_run_output": {"key": "run-7/x", "stream": None},
    "delete_output_below": {"prefixes": ["run-7", "run-8"]},
    "delete_old_output": {"before": "2026-01-01", "limit": 1000},
}


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", sorted(OUTPUT))
def test_output_of_runs_is_found_by_its_indexes(function: Function, name: str, plan: str) -> None:
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.run_output (key, stream, start, content, saved_at)"
            " SELECT 'run-' || n || '/x', 'out', 0, '', now() - n * interval '1 minute'"
            " FROM generate_series(1, 60000) AS n"
        )
        connection.execute("ANALYZE runyard.run_output")
    with database.transaction() as connection:
        connection.execute(f"SET LOCAL plan_cache_mode = {plan}".encode())
        [row] = connection.execute(
            b"EXPLAIN (FORMAT JSON) " + statement(name), OUTPUT[name]
        ).fetchall()
    assert _read_whole(row["QUERY PLAN"], "run_output") == []
