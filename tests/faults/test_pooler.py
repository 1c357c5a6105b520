"""A whole stack whose connections go through PgBouncer, one transaction at a time."""

import json
import urllib.request
from pathlib import Path

import psycopg

from tests.conftest import settled, wait_until
from tests.faults.conftest import doctor, running
from tests.ports import free_port
from tests.servers import pgbouncer
from tests.tables import rows

_POOL = 6
# Runs that have not succeeded, or whose log lacks the event with which a run begins or ends.
_WITHOUT_WHOLE_LOG = """
    SELECT run_id FROM runs WHERE status <> 'SUCCESS' OR 3 <> (
        SELECT count(*) FROM event_logs WHERE event_logs.run_id = runs.run_id
            AND dagster_event_type IN ('PIPELINE_STARTING', 'PIPELINE_START', 'PIPELINE_SUCCESS'))
"""


def test_through_pgbouncer_events_are_done_and_its_sessions_stay_clean(
    own_database: str, tmp_path: Path
) -> None:
    port = free_port()
    with pgbouncer(tmp_path, own_database, pool_size=_POOL) as through:
        urls = {"DATABASE_URL": through, "RUNYARD_DIRECT_DATABASE_URL": own_database}
        with running(tmp_path, RUNYARD_PORT=str(port), **urls) as log:
            assert "ok" in doctor("database", **urls)
            assert "ok" in doctor("migrations", **urls)
            ids = [_post(port, n) for n in range(20)]
            assert [settled(event_id, 60)["output"]["n"] for event_id in ids] == list(range(1, 21))
            for setting, default in (
                ("lock_timeout", "0"),
                ("statement_timeout", "0"),
                ("search_path", "public"),
            ):
                assert _in_all_sessions(through, f"SHOW {setting}") == {default}
            prepared = "SELECT count(*)::text FROM pg_prepared_statements"
            assert _in_all_sessions(through, prepared) == {"0"}
            assert "does not exist" not in log.read_text()
            wait_until(lambda: not rows(_WITHOUT_WHOLE_LOG))


def _post(port: int, n: int) -> str:
    """Send an event over HTTP; return its id."""
    body = json.dumps({"name": "test/steps", "data": {"n": n}}).encode()
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}/e/key", body), timeout=30
    ) as answer:
        return str(json.load(answer)["ids"][0])


def _in_all_sessions(through: str, query: str) -> set[str]:
    """What a query gives in the server's sessions behind the pooler."""
    answers: dict[int, str] = {}

    def ask() -> bool:
        opened = [psycopg.connect(through, prepare_threshold=None) for _ in range(_POOL - 1)]
        # Each in a transaction that stays open, so that the next one gets another session.
        for connection in opened:
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            answers[connection.info.backend_pid] = str(row[0])
        for connection in opened:
            connection.close()
        return bool(answers)

    wait_until(ask)
    return set(answers.values())
