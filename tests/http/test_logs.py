"""The logs of an invocation's steps, over HTTP and on the dev page."""

import json

import httpx
import pytest

from runyard import send
from runyard.engine import api_keys
from runyard.functions.registry import Function
from runyard.store import database
from tests.http.history import run_through, walk
from tests.http.visitor import Visitor
from tests.web_process import WebProcess

AT = 1_790_000_000.25


def write_log(
    invocation: int, step: str, *texts: str, run: str = "run-1", dropped: int = 0
) -> None:
    lines = json.dumps([[AT, "stdout", text] for text in texts])
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.step_logs"
            " (invocation_id, step, run_id, attempt, started_at, lines, dropped)"
            " VALUES (%s, %s, %s, 1, to_timestamp(%s), %s, %s)",
            [invocation, step, run, AT, lines, dropped],
        )


@pytest.fixture
def invocation(web: WebProcess, functions: dict[str, Function]) -> int:
    """An invocation that has succeeded in the run `run-1`, with the step say-hello."""
    send("greet/requested")
    return run_through(functions["greet"])[0]


def test_an_invocation_shows_what_its_steps_have_logged(web: WebProcess, invocation: int) -> None:
    write_log(invocation, "say-hello", "Hello", dropped=3)
    assert web.get(f"/api/invocations/{invocation}/logs").json() == {
        "logs": [
            {
                "step": "say-hello",
                "run_id": "run-1",
                "attempt": 1,
                "lines": [
                    {"at": "2026-09-21T14:13:20.250000Z", "level": "stdout", "text": "Hello"}
                ],
                "dropped": 3,
            }
        ],
        "cursor": None,
    }


def test_an_invocation_that_is_silent_has_no_logs(web: WebProcess, invocation: int) -> None:
    assert web.get(f"/api/invocations/{invocation}/logs").json() == {"logs": [], "cursor": None}


def test_the_logs_of_one_step_are_found_by_its_name(web: WebProcess, invocation: int) -> None:
    for step in ("say-hello", "say-bye"):
        write_log(invocation, step, step)
    found = web.get(f"/api/invocations/{invocation}/logs?step=say-bye").json()["logs"]
    assert [log["step"] for log in found] == ["say-bye"]


def test_logs_come_in_pages(web: WebProcess, invocation: int) -> None:
    for number in range(16):
        write_log(invocation, f"part-{number}", "x")
    found = walk(web, f"/api/invocations/{invocation}/logs", "logs")
    assert [log["step"] for log in found] == [f"part-{number}" for number in range(16)]


def test_an_invocation_that_is_missing_has_no_logs(web: WebProcess) -> None:
    assert web.get("/api/invocations/99999999/logs").status_code == 404


def test_a_key_for_other_events_reads_no_logs(web: WebProcess, invocation: int) -> None:
    key = api_keys.create("mail", ["read"], events=["email/%"])[1]
    answer = httpx.get(
        f"{web.url}/api/invocations/{invocation}/logs", headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 404


def test_the_timeline_shows_a_log_and_escapes_it(web: WebProcess, invocation: int) -> None:
    write_log(invocation, "say-hello", "<script>alert(1)</script>", dropped=3)
    page = Visitor(web, "read").get(f"/dev/invocations/{invocation}").text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "… 3 more lines" in page


def test_a_long_log_is_collapsed(web: WebProcess, invocation: int) -> None:
    write_log(invocation, "say-hello", *map(str, range(50)))
    page = Visitor(web, "read").get(f"/dev/invocations/{invocation}").text
    assert '<details class="log"><summary>' in page
