"""Replay, cancel, trigger and bulk actions over HTTP."""

from runyard import Event, send
from runyard.engine import batch_claims, batch_leases
from runyard.functions.registry import Function
from runyard.store import database
from tests.conftest import wait_until
from tests.http.history import run_through
from tests.web_process import WebProcess, count


def statuses() -> list[str]:
    with database.connection() as connection:
        return [
            str(row["status"])
            for row in connection.execute(
                "SELECT status FROM runyard.invocations ORDER BY id"
            ).fetchall()
        ]


def test_an_invocation_is_replayed_from_the_start_or_with_its_steps(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    send("also/one")
    [first] = run_through(functions["also"], error="x")
    [fresh] = web.post(f"/api/invocations/{first}/replay").json()["invocations"]
    [kept] = web.post(f"/api/invocations/{first}/replay", {"keep_steps": True}).json()[
        "invocations"
    ]
    assert [len(web.get(f"/api/invocations/{one}").json()["steps"]) for one in (fresh, kept)] == [
        0,
        1,
    ]
    assert web.get(f"/api/invocations/{kept}").json()["replay_of"] == first
    open_one = web.post(f"/api/invocations/{fresh}/replay")
    assert (open_one.status_code, open_one.json()["code"]) == (409, "not_finished")


def test_an_event_is_replayed_for_all_its_functions_or_one(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    [event_id] = send("greet/requested")
    run_through(functions["greet"])
    run_through(functions["also"])
    assert len(web.post(f"/api/events/{event_id}/replay").json()["invocations"]) == 2
    run_through(functions["greet"])
    assert (
        len(web.post(f"/api/events/{event_id}/replay", {"function": "greet"}).json()["invocations"])
        == 1
    )
    assert web.post(f"/api/events/{event_id}/replay", {"function": "nobody"}).status_code == 409
    assert web.post("/api/events/none/replay").status_code == 404


def test_an_open_invocation_is_cancelled_and_a_final_one_stays(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    send([Event("also/one"), Event("also/two")])
    assert web.post("/api/invocations/1/cancel").json() == {"invocation": 1, "status": "cancelled"}
    again = web.post("/api/invocations/1/cancel")
    assert (again.status_code, again.json()["error"]) == (409, "invocation 1 is already cancelled")
    assert web.ask("DELETE", "/v1/runs/2").status_code == 204
    assert web.ask("DELETE", "/v1/runs/2").status_code == 204  # it is cancelled, as requested
    assert statuses() == ["cancelled", "cancelled"]


def test_cancelling_stops_a_running_invocation(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    send("also/one")
    [claim] = batch_claims.claim(functions["also"]) or []
    batch_leases.begin(claim.batch_id, "run-1")
    assert web.post("/api/invocations/1/cancel").json()["status"] == "running"
    row = batch_leases.batch_of_run("run-1")
    assert row is not None
    assert row["cancelled"]


def test_a_bulk_is_counted_then_done_behind_its_answer(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    send([Event("also/x", {"n": n % 2}) for n in range(1200)])
    while run_through(functions["also"], error="boom"):
        pass
    chosen = {"function": "also", "status": ["failed"], "error": "BOOM", "filter": "$.data.n == 1"}
    assert web.post("/api/bulk/replay", {**chosen, "dry_run": True}).json() == {"total": 600}
    assert count("runyard.invocations") == 1200
    begun = web.post("/api/bulk/replay", chosen)
    assert begun.status_code == 202
    assert begun.json()["total"] == 600
    path = f"/api/bulk/{begun.json()['bulk']}"
    done = wait_until(lambda: (found := web.get(path).json())["finished"] and found, 15)
    assert (done["done"], done["action"], done["selection"]["error"]) == (600, "replay", "BOOM")
    assert count("runyard.invocations") == 1800
    assert web.get("/api/bulk").json()["bulks"][0]["bulk"] == done["bulk"]
    assert web.post(f"{path}/resume").json()["finished"] is True
    assert count("runyard.invocations") == 1800


def test_bulk_cancel_and_dismiss(web: WebProcess, functions: dict[str, Function]) -> None:
    send([Event("also/x") for _ in range(10)])
    begun = web.post("/api/bulk/cancel", {"function": "also"}).json()
    wait_until(lambda: web.get(f"/api/bulk/{begun['bulk']}").json()["finished"])
    assert statuses() == ["cancelled"] * 10
    send("also/x")
    [failed] = run_through(functions["also"], error="x")
    begun = web.post("/api/bulk/dismiss", {"invocations": [failed]}).json()
    wait_until(lambda: web.get(f"/api/invocations/{failed}").json()["dismissed_at"])


def test_a_bulk_that_names_nothing_or_nonsense_is_refused(web: WebProcess) -> None:
    for action, body, status, says in [
        ("replay", {}, 400, "select something"),
        ("explode", {"function": "x"}, 405, "this method"),
        ("replay", {"status": ["queued"]}, 400, "cannot replay invocations that are queued"),
        ("cancel", {"status": ["done"]}, 400, "does not exist"),
        ("cancel", {"filter": "$.data =="}, 400, "filter"),
        ("cancel", {"since": "2026-01-01T00:00:00"}, 400, "timezone"),
        ("cancel", {"functoin": "x"}, 400, "functoin"),
    ]:
        answer = web.post(f"/api/bulk/{action}", body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["error"]
    assert web.get("/api/bulk/none").status_code == 404
    assert web.post("/api/bulk/none/resume").status_code == 404


def test_inngests_cancellations_cancel_by_function_and_time(web: WebProcess) -> None:
    send([Event("greet/requested") for _ in range(3)])
    answer = web.post(
        "/v1/cancellations",
        {"app_id": "shop", "function_id": "greet", "started_before": "2100-01-01T00:00:00Z"},
    )
    assert answer.status_code == 202
    assert answer.json()["total"] == 3
    wait_until(lambda: statuses().count("cancelled") == 3)


def test_a_paused_function_waits_until_it_is_resumed(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    assert web.post("/api/functions/also/pause").json() == {"function": "also", "paused": True}
    send("also/x")
    assert run_through(functions["also"]) == []
    assert next(
        found for found in web.get("/api/functions").json()["functions"] if found["name"] == "also"
    )["paused_at"]
    assert web.post("/api/functions/also/resume").json()["paused"] is False
    assert len(run_through(functions["also"])) == 1
    assert web.post("/api/functions/nobody/pause").status_code == 404


def test_a_function_is_triggered_alone_whatever_starts_it(web: WebProcess) -> None:
    answer = web.post("/api/inngest/trigger", {"function": "also", "data": {"n": 1}})
    assert answer.status_code == 202
    assert answer.json()["done"] is False
    [event_id] = answer.json()["ids"]
    event = web.get(f"/api/events/{event_id}").json()
    assert (event["name"], event["target"]) == ("greet/requested", "also")
    assert [
        found["function"]
        for found in web.get(f"/api/events/{event_id}/invocations").json()["invocations"]
    ] == ["also"]
    assert len(web.post("/api/inngest/trigger", {"event": "greet/requested"}).json()["ids"]) == 1
    assert count("runyard.invocations") == 3


def test_a_wrong_trigger_says_what_to_do(web: WebProcess) -> None:
    for body, status, says in [
        ({}, 400, "an event or a function"),
        ({"event": "a/b", "function": "greet"}, 400, "an event or a function"),
        ({"function": "nobody"}, 404, "no function nobody"),
        ({"event": "email/send.requested", "data": {"to": "x"}}, 400, "data.to"),
        ({"function": "send_email", "data": {}}, 400, "data.to"),
        ({"event": "runyard/function.failed"}, 400, "internal"),
        ({"event": "a/b", "data": 1}, 400, "data"),
    ]:
        answer = web.post("/api/inngest/trigger", body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["error"]
    for wait in ("-1", "121", "soon", "NaN"):
        assert web.post(f"/api/inngest/trigger?wait={wait}", {"event": "a/b"}).status_code == 400
    assert count() == 0


def test_waiting_gives_up_after_its_time_and_sees_the_end_at_once(
    web: WebProcess, functions: dict[str, Function]
) -> None:
    import threading
    import time

    began = time.monotonic()
    late = web.post("/api/inngest/trigger?wait=0.5", {"function": "also"})
    assert late.status_code == 202
    assert 0.5 <= time.monotonic() - began < 15
    assert late.json()["invocations"][0]["status"] == "queued"
    run_through(functions["also"])
    threading.Timer(0.5, lambda: run_through(functions["also"])).start()
    began = time.monotonic()
    answer = web.post("/api/inngest/trigger?wait=20", {"function": "also"})
    assert answer.status_code == 200
    assert answer.json()["done"]
    assert time.monotonic() - began < 15
    assert answer.json()["invocations"][0]["output"] == {"ok": True}
    nobody = web.post("/api/inngest/trigger?wait=5", {"event": "nobody/waits"})
    assert nobody.status_code == 200
    assert nobody.json()["done"]
    assert nobody.json()["invocations"] == []
