"""The dev page with a hundred events in the table and with a million, from the same process."""

import statistics
import time
from typing import Any
from urllib.parse import quote

from starlette.testclient import TestClient

from runyard.processes.migrate import migrate
from runyard.store import database

EVENTS = 1_000_000
_TIMES = 15
_FUNCTIONS = 20
# Inngest's SDKs ask for /dev too, and get another answer.
_BROWSER = {"Accept": "text/html,*/*;q=0.8"}


def pages() -> dict[str, Any]:
    """The dev page with a million events: median milliseconds, and their ratio to a hundred's."""
    migrate()
    try:
        few, many = _measured(100), _measured(EVENTS)
    finally:
        _empty()
    first = {f"{name}_ms": round(1000 * seconds, 1) for name, seconds in many.items()}
    return {**first, "times_a_hundred": round(many["first_page"] / few["first_page"], 2)}


def _measured(events: int) -> dict[str, float]:
    _fill(events)
    from runyard.gateway.app import build_app

    with TestClient(build_app(None, development=True), base_url="http://localhost") as client:
        older = f"/dev?before={_place(events // 2)}"
        middle = events // 2
        found = {
            "first_page": "/dev",
            "a_page_in_the_middle": older,
            "by_name": "/dev?name=bench/3",
            "by_id": f"/dev?id={middle:026}",
            "by_rare_status": "/dev?status=failed",
            "by_path_in_the_data": f"/dev?path=data.n+%3D+{events - 60}",
            "event": f"/dev/events/{middle:026}",
            "invocation": f"/dev/invocations/{middle}",
            "functions": "/dev/functions",
            "health": "/dev/health",
        }
        return {name: median_seconds(client, path) for name, path in found.items()}


def median_seconds(client: TestClient, path: str) -> float:
    """Request a page several times; return the median of the seconds it took."""
    times: list[float] = []
    for _ in range(_TIMES):
        began = time.monotonic()
        answer = client.get(path, headers=_BROWSER)
        times.append(time.monotonic() - began)
        assert answer.status_code == 200, (path, answer.text[:500])
    return statistics.median(times)


def _fill(events: int) -> None:
    """Insert this many events of the last day, each with an invocation; one in a hundred failed."""
    _empty()
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.functions (name, job, triggers, max_batch, attempts)"
            " SELECT 'function_' || n, 'job', '{}', 500, 5 FROM generate_series(0, %s - 1) AS n",
            (_FUNCTIONS,),
        )
        connection.execute(
            "INSERT INTO runyard.events (id, name, data, source, ts, received_at, target)"
            " SELECT lpad(n::text, 26, '0'), 'bench/' || n %% 40,"
            " jsonb_build_object('n', n, 'text', repeat('x', 200)), 'bench', at, at, 'nobody'"
            " FROM generate_series(1, %(events)s) AS n,"
            " LATERAL (SELECT now() - (%(events)s - n) * interval '1 day' / %(events)s AS at)"
            " AS times",
            {"events": events},
        )
        connection.execute(
            "INSERT INTO runyard.invocations (event_id, function, status, attempt, created_at,"
            " started_at, finished_at)"
            " SELECT id, 'function_' || right(id, 2)::integer %% %s,"
            " CASE WHEN right(id, 2) = '07' THEN 'failed' ELSE 'succeeded' END, 1, ts, ts,"
            " ts + interval '1 s'"
            " FROM runyard.events WHERE source = 'bench' ORDER BY id",
            (_FUNCTIONS,),
        )
        connection.execute("VACUUM ANALYZE runyard.events, runyard.invocations")


def _empty() -> None:
    with database.connection() as connection:
        connection.execute(
            "TRUNCATE runyard.events, runyard.invocations, runyard.steps, runyard.functions"
            " RESTART IDENTITY"
        )


def _place(number: int) -> str:
    with database.connection() as connection:
        row = connection.execute(
            "SELECT received_at FROM runyard.events WHERE id = %s", (f"{number:026}",)
        ).fetchone()
    assert row is not None
    return quote(f"{row['received_at']} {number:026}".replace(" ", "T", 1))
