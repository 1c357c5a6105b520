"""Doing again and stopping, over HTTP."""

from runyard import Event, send
from runyard.engine import dispatch
from runyard.functions.registry import Function
from runyard.store import database
from tests.conftest import wait_until
from tests.door import Door, count
from tests.http.test_history import run_through


def statuses() -> list[str]:
    with database.connection() as connection:
        return [str(row["status"]) for row in connection.execute("SELECT status FROM runyard.invocations ORDER BY id").fetchall()]


def test_an_invocation_is_replayed_from_the_start_or_with_its_steps(door: Door, functions: dict[str, Function]) -> None:
    send("also/one")
    [first] = run_through(functions["also"], error="x")
    [fresh] = door.post(f"/api/invocations/{first}/replay").json()["invocations"]
    [kept] = door.post(f"/api/invocations/{first}/replay", {"keep_steps": True}).json()["invocations"]
    assert [len(door.get(f"/api/invocations/{one}").json()["steps"]) for one in (fresh, kept)] == [0, 1]
    assert door.get(f"/api/invocations/{kept}").json()["replay_of"] == first
    open_one = door.post(f"/api/invocations/{fresh}/replay")
    assert (open_one.status_code, open_one.json()["code"]) == (409, "open")


def test_an_event_is_replayed_for_all_its_functions_or_one(door: Door, functions: dict[str, Function]) -> None:
    [event_id] = send("greet/requested")
    run_through(functions["greet"])
    run_through(functions["also"])
    assert len(door.post(f"/api/events/{event_id}/replay").json()["invocations"]) == 2
    run_through(functions["greet"])
    assert len(door.post(f"/api/events/{event_id}/replay", {"function": "greet"}).json()["invocations"]) == 1
    assert door.post(f"/api/events/{event_id}/replay", {"function": "nobody"}).status_code == 409
    assert door.post("/api/events/none/replay").status_code == 404


def test_an_open_invocation_is_cancelled_a_final_one_stays(door: Door, functions: dict[str, Function]) -> None:
    send([Event("also/one"), Event("also/two")])
    assert door.post("/api/invocations/1/cancel").json() == {"invocation": 1, "status": "cancelled"}
    again = door.post("/api/invocations/1/cancel")
    assert (again.status_code, again.json()["error"]) == (409, "invocation 1 is cancelled already")
    assert door.ask("DELETE", "/v1/runs/2").status_code == 204
    assert door.ask("DELETE", "/v1/runs/2").status_code == 204  # it is cancelled, which was asked for
    assert statuses() == ["cancelled", "cancelled"]


def test_what_runs_is_told_to_stop(door: Door, functions: dict[str, Function]) -> None:
    send("also/one")
    [claim] = dispatch.claim(functions["also"]) or []
    dispatch.begin(claim.batch_id, "run-1")
    assert door.post("/api/invocations/1/cancel").json()["status"] == "running"
    row = dispatch.batch_of_run("run-1")
    assert row is not None and row["cancelled"]


def test_a_bulk_is_counted_then_done_behind_its_answer(door: Door, functions: dict[str, Function]) -> None:
    send([Event("also/x", {"n": n % 2}) for n in range(1200)])
    while run_through(functions["also"], error="boom"):
        pass
    chosen = {"function": "also", "status": ["failed"], "error": "BOOM", "filter": "$.data.n == 1"}
    assert door.post("/api/bulk/replay", {**chosen, "dry_run": True}).json() == {"total": 600}
    assert count("runyard.invocations") == 1200
    begun = door.post("/api/bulk/replay", chosen)
    assert begun.status_code == 202 and begun.json()["total"] == 600
    path = f"/api/bulk/{begun.json()['bulk']}"
    done = wait_until(lambda: (found := door.get(path).json())["finished"] and found, 15)
    assert (done["done"], done["action"], done["selection"]["error"]) == (600, "replay", "BOOM")
    assert count("runyard.invocations") == 1800
    assert door.get("/api/bulk").json()["bulks"][0]["bulk"] == done["bulk"]
    assert door.post(f"{path}/resume").json()["finished"] is True and count("runyard.invocations") == 1800


def test_bulk_cancel_and_dismiss(door: Door, functions: dict[str, Function]) -> None:
    send([Event("also/x") for _ in range(10)])
    begun = door.post("/api/bulk/cancel", {"function": "also"}).json()
    wait_until(lambda: door.get(f"/api/bulk/{begun['bulk']}").json()["finished"])
    assert statuses() == ["cancelled"] * 10
    send("also/x")
    [failed] = run_through(functions["also"], error="x")
    begun = door.post("/api/bulk/dismiss", {"invocations": [failed]}).json()
    wait_until(lambda: door.get(f"/api/invocations/{failed}").json()["dismissed_at"])


def test_a_bulk_that_names_nothing_or_nonsense_is_refused(door: Door) -> None:
    for action, body, status, says in [
        ("replay", {}, 400, "select something"), ("explode", {"function": "x"}, 405, "method"), ("replay", {"status": ["queued"]}, 400, "not for what is queued"),
        ("cancel", {"status": ["done"]}, 400, "give some of"), ("cancel", {"filter": "$.data =="}, 400, "filter"),
        ("cancel", {"since": "2026-01-01T00:00:00"}, 400, "timezone"),
        ("cancel", {"functoin": "x"}, 400, "functoin"),
    ]:  # fmt: skip
        answer = door.post(f"/api/bulk/{action}", body)
        assert answer.status_code == status and says in answer.json()["error"], answer.text
    assert door.get("/api/bulk/none").status_code == 404 and door.post("/api/bulk/none/resume").status_code == 404


def test_inngests_cancellations_cancel_by_function_and_time(door: Door) -> None:
    send([Event("greet/requested") for _ in range(3)])
    answer = door.post("/v1/cancellations", {"app_id": "shop", "function_id": "greet", "started_before": "2100-01-01T00:00:00Z"})
    assert answer.status_code == 202 and answer.json()["total"] == 3
    wait_until(lambda: statuses().count("cancelled") == 3)


def test_a_paused_function_waits_until_it_is_resumed(door: Door, functions: dict[str, Function]) -> None:
    assert door.post("/api/functions/also/pause").json() == {"function": "also", "paused": True}
    send("also/x")
    assert run_through(functions["also"]) == []
    assert next(found for found in door.get("/api/functions").json()["functions"] if found["name"] == "also")["paused_at"]
    assert door.post("/api/functions/also/resume").json()["paused"] is False
    assert len(run_through(functions["also"])) == 1
    assert door.post("/api/functions/nobody/pause").status_code == 404


def test_a_function_is_triggered_alone_whatever_starts_it(door: Door) -> None:
    answer = door.post("/api/inngest/trigger", {"function": "also", "data": {"n": 1}})
    assert answer.status_code == 202 and answer.json()["done"] is False
    [event_id] = answer.json()["ids"]
    event = door.get(f"/api/events/{event_id}").json()
    assert (event["name"], event["target"]) == ("greet/requested", "also")
    assert [found["function"] for found in door.get(f"/api/events/{event_id}/invocations").json()["invocations"]] == ["also"]
    assert len(door.post("/api/inngest/trigger", {"event": "greet/requested"}).json()["ids"]) == 1
    assert count("runyard.invocations") == 3


def test_a_wrong_trigger_says_what_to_do(door: Door) -> None:
    for body, status, says in [
        ({}, 400, "an event or a function"), ({"event": "a/b", "function": "greet"}, 400, "one of them"), ({"function": "nobody"}, 404, "no function nobody"),
        ({"event": "email/send.requested", "data": {"to": "x"}}, 400, "data.to"), ({"function": "send_email", "data": {}}, 400, "data.to"),
        ({"event": "runyard/function.failed"}, 400, "internal"), ({"event": "a/b", "data": 1}, 400, "data"),
    ]:  # fmt: skip
        answer = door.post("/api/inngest/trigger", body)
        assert answer.status_code == status and says in answer.json()["error"], answer.text
    for wait in ("-1", "121", "soon", "NaN"):
        assert door.post(f"/api/inngest/trigger?wait={wait}", {"event": "a/b"}).status_code == 400
    assert count() == 0


def test_waiting_gives_up_after_its_time_and_sees_the_end_at_once(door: Door, functions: dict[str, Function]) -> None:
    import threading
    import time

    began = time.monotonic()
    late = door.post("/api/inngest/trigger?wait=0.5", {"function": "also"})
    assert late.status_code == 202 and 0.5 <= time.monotonic() - began < 3 and late.json()["invocations"][0]["status"] == "queued"
    run_through(functions["also"])
    threading.Timer(0.5, lambda: run_through(functions["also"])).start()
    began = time.monotonic()
    answer = door.post("/api/inngest/trigger?wait=20", {"function": "also"})
    assert answer.status_code == 200 and answer.json()["done"] and time.monotonic() - began < 5
    assert answer.json()["invocations"][0]["output"] == {"ok": True}
    nobody = door.post("/api/inngest/trigger?wait=5", {"event": "nobody/waits"})
    assert nobody.status_code == 200 and nobody.json()["done"] and nobody.json()["invocations"] == []
