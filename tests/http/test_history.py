"""Events and invocations in pages; functions; Inngest's REST API."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from runyard import Event, send
from runyard.functions.registry import Function
from runyard.store import database
from tests.http.history import run_through, walk
from tests.web_process import WebProcess


def test_pages_give_every_event_once_newest_first_while_others_come(web: WebProcess) -> None:
    ids = [
        one
        for n in range(5)
        for one in send([Event("greet/requested", {"n": n}) for _ in range(6)])
    ]
    found: list[Any] = []
    cursor = ""
    for _ in range(5):
        page = web.get(f"/api/events?limit=7{cursor}").json()
        found += page["events"]
        cursor = f"&cursor={page['cursor']}"
        send("greet/requested")
    assert page["cursor"] is None
    assert sorted(event["id"] for event in found) == sorted(ids)
    places = [(event["received_at"], event["id"]) for event in found]
    assert places == sorted(places, reverse=True)


def test_events_are_found_by_name_source_and_time(web: WebProcess) -> None:
    send([Event("greet/requested") for _ in range(9)])
    send("rare/event", source="cron")
    middle = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    send("rare/event")
    assert len(walk(web, "/api/events?name=greet/requested", "events")) == 9
    assert len(walk(web, "/api/events?name=rare/event", "events")) == 2
    assert [event["source"] for event in walk(web, "/api/events?source=cron", "events")] == ["cron"]
    assert len(walk(web, f"/api/events?received_after={middle}", "events")) == 1
    assert len(walk(web, f"/api/events?received_before={middle}", "events")) == 10


def test_an_event_its_invocations_and_their_steps(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    [event_id] = send("greet/requested", {"who": "Ada"})
    run_through(functions["greet"])
    run_through(functions["also"], error="no voice")
    assert web.get(f"/api/events/{event_id}").json()["data"] == {"who": "Ada"}
    also, greet = sorted(
        web.get(f"/api/events/{event_id}/invocations").json()["invocations"],
        key=lambda found: found["function"],
    )
    assert (greet["status"], greet["output"], greet["run_id"], greet["attempt"]) == (
        "succeeded",
        {"ok": True},
        "run-1",
        1,
    )
    assert [(step["step"], step["output"], step["tries"]) for step in greet["steps"]] == [
        ("say-hello", {"said": "hello"}, 1)
    ]
    assert (also["status"], also["error"]["message"], also["error"]["traceback"]) == (
        "failed",
        "no voice",
        "line 1",
    )
    assert web.get(f"/api/invocations/{greet['id']}").json() == greet


def test_the_invocations_of_a_function_by_status(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    send([Event("greet/requested") for _ in range(8)])
    failed = run_through(functions["greet"], error="x")
    send("greet/requested")
    assert len(walk(web, "/api/invocations?function=greet", "invocations")) == 9
    assert (
        sorted(
            row["id"]
            for row in walk(web, "/api/invocations?function=greet&status=failed", "invocations")
        )
        == failed
    )
    assert web.get("/api/invocations").status_code == 400


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/api/events/none", 404, "no event none"),
        ("/api/events/none/invocations", 404, "no event"),
        ("/api/invocations/none", 404, "no invocation"),
        ("/api/invocations/99999999999999999999", 404, "no invocation"),
        ("/api/invocations/-1", 404, "no invocation"),
        ("/api/invocations/%D9%A3", 404, "no invocation"),
        ("/api/invocations/" + "9" * 5000, 404, "no invocation"),
        ("/api/events/%00", 400, "NUL"),
        ("/api/events?limit=0", 400, "limit"),
        ("/api/events?limit=101", 400, "limit"),
        ("/api/events?limit=ten", 400, "limit"),
        ("/api/events?cursor=xyz", 400, "cursor"),
        ("/api/events?cursor=WyIyMDI2LTAxLTAxIiwgIjEiXQ", 400, "cursor"),
        ("/api/events?received_after=yesterday", 400, "received_after"),
        ("/api/events?received_after=2026-01-01T00:00:00", 400, "received_after"),
        ("/api/events?nmae=x", 400, "nmae"),
        ("/api/events?name=a&name=b", 400, "twice"),
        ("/api/invocations?function=greet&status=lost", 400, "status"),
        (
            "/api/invocations?function=greet&cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwgIngiXQ",
            400,
            "database",
        ),
        ("/api/nothing", 404, "/docs"),
        ("/v1/runs/none", 404, "no invocation"),
        ("/v1/events?cursor=none", 400, "cursor"),
    ],
)
def test_a_wrong_question_is_answered_with_what_to_do(
    web: WebProcess, path: str, status: int, says: str
) -> None:
    answer = web.get(path)
    found = answer.json()
    assert (answer.status_code, found["status"]) == (status, status)
    assert says in found["error"] + found.get("field", "")


def test_a_method_that_is_not_for_a_path_is_refused_in_the_same_form(web: WebProcess) -> None:
    answer = web.ask("DELETE", "/api/events")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}


def test_the_registry_has_the_schemas_of_its_events(web: WebProcess) -> None:
    found = {
        function["name"]: function for function in web.get("/api/functions").json()["functions"]
    }
    assert set(found) == {"greet", "also", "send_email"}
    assert found["also"]["triggers"] == ["greet/requested", "also/*"]
    assert found["also"]["schemas"] == {}
    schema = found["send_email"]["schemas"]["email/send.requested"]
    assert schema["required"] == ["to"]
    assert schema["additionalProperties"] is False


def test_inngests_clients_read_events_and_runs(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    [event_id] = send("greet/requested", {"who": "Ada"}, id="mine", ts=1_700_000_000_000)
    before = web.get(f"/v1/events/{event_id}/runs").json()["data"]
    assert [(run["status"], run["output"], run["ended_at"]) for run in before] == [
        ("Running", None, None)
    ] * 2
    run_through(functions["greet"])
    run_through(functions["also"], error="no voice")
    [event] = web.get("/v1/events").json()["data"]
    assert (event["internal_id"], event["id"], event["name"], event["data"], event["ts"]) == (
        event_id,
        "mine",
        "greet/requested",
        {"who": "Ada"},
        1_700_000_000_000,
    )
    assert web.get(f"/v1/events/{event_id}").json()["data"] == event
    answer = web.get(f"/v1/events/{event_id}/runs").json()
    runs = {run["function_id"]: run for run in answer["data"]}
    assert set(answer["metadata"]) == {"fetched_at", "cached_until"}
    assert (runs["greet"]["status"], runs["greet"]["output"]) == ("Completed", {"ok": True})
    assert (runs["also"]["status"], runs["also"]["output"]["message"]) == ("Failed", "no voice")
    assert web.get(f"/v1/runs/{runs['greet']['run_id']}").json()["data"] == runs["greet"]


def test_inngests_events_are_those_of_the_last_hour_in_pages(web: WebProcess) -> None:
    ids = send([Event("greet/requested") for _ in range(5)])
    with database.connection() as connection:
        connection.execute(
            "UPDATE runyard.events SET received_at = received_at - interval '2 hours'"
            " WHERE id = %s",
            (ids[0],),
        )
    first = web.get("/v1/events?limit=3").json()["data"]
    rest = web.get(f"/v1/events?limit=3&cursor={first[-1]['internal_id']}").json()["data"]
    assert sorted(event["internal_id"] for event in first + rest) == sorted(ids[1:])
    day = (datetime.now(UTC) - timedelta(days=1)).isoformat().replace("+00:00", "Z")
    assert len(web.get(f"/v1/events?received_after={day}").json()["data"]) == 5


def test_a_page_of_a_million_events_is_read_by_an_index() -> None:
    from runyard.store.queries import statements

    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO runyard.events (name, target, received_at)"
            " SELECT 'kind/' || n % 50, 'nobody', now() - n * interval '1 second'"
            " FROM generate_series(1, 30000) AS n"
        )
        connection.execute("ANALYZE runyard.events")
        for name in (None, "kind/7"):
            bounds = {
                "name": name,
                "source": None,
                "names": None,
                "after": None,
                "before": None,
                "limit": 50,
                "bytes": 1_000_000,
                "cursor_at": None,
                "cursor_id": None,
            }
            [row] = connection.execute(
                b"EXPLAIN (ANALYZE, FORMAT JSON) " + statements()["events_page"], bounds
            ).fetchall()
            text = str(row)
            assert "Seq Scan" not in text
            assert "'Sort'" not in text
            assert ("events_name_received" in text) is (name is not None), text
