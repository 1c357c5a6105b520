"""The stream of an invocation: its messages in order; a client that reconnects misses nothing."""

import json
import threading
import time
from collections.abc import Generator
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from runyard import send
from runyard.engine import batch_claims, batch_leases, checkpoints, settlement
from runyard.engine.batch_claims import Claim
from runyard.engine.progress import Reporter
from runyard.engine.settlement import Outcome
from runyard.functions.registry import Function
from tests.conftest import wait_until
from tests.web_process import WebProcess

Message = tuple[str, Any, str | None]


def streams_open(web: WebProcess) -> int:
    """How many clients are connected to the web process."""
    connections = psutil.Process(web.pid).net_connections("tcp")
    return sum(each.laddr.port == web.port and bool(each.raddr) for each in connections)


def messages(
    web: WebProcess, invocation: int, last: str | None = None, seconds: float = 15
) -> Generator[Message, None, None]:
    """The messages of a stream: event, data, id."""
    headers = {
        "Authorization": f"Bearer {web.keys['read']}",
        **({"Last-Event-ID": last} if last else {}),
    }
    with httpx.stream(
        "GET", f"{web.url}/api/invocations/{invocation}/stream", headers=headers, timeout=seconds
    ) as answer:
        if answer.status_code == 204:
            return
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                if "event" in fields:
                    yield fields["event"], json.loads(fields["data"]), fields.get("id")
                fields = {}


@pytest.fixture
def claim(functions: dict[str, Function]) -> Claim:
    """A running batch of one invocation."""
    send("also/one")
    [claim] = batch_claims.claim(functions["also"]) or []
    batch_leases.begin(claim.batch_id, "run-1")
    return claim


def keep(
    claim: Claim, step: str, output: str | None = '{"x": 1}', error: str | None = None
) -> None:
    checkpoints.save_steps(
        claim.batch_id, "run-1", step, [(1, 1, output, error, time.time(), time.time())]
    )


def end(claim: Claim) -> None:
    settlement.settle(claim.batch_id, "run-1", [Outcome(1, "succeeded", output='{"done": true}')])


def test_steps_progress_and_the_end_come_as_they_happen(web: WebProcess, claim: Claim) -> None:
    stream = messages(web, 1)
    name, data, _ = next(stream)
    assert (name, data["status"]) == ("status", "running")
    Reporter(claim.batch_id, "run-1", "first").report(1, 40, "section 2 of 5")
    name, data, _ = next(stream)
    assert (name, data["step"], data["percent"], data["text"]) == (
        "progress",
        "first",
        40,
        "section 2 of 5",
    )
    keep(claim, "first")
    name, data, _ = next(stream)
    assert (name, data["step"], data["output"]) == ("step", "first", {"x": 1})
    began = time.monotonic()
    end(claim)
    name, data, _ = next(stream)
    assert (name, data["status"], data["output"]) == (
        "status",
        "succeeded",
        {"done": True},
    )
    assert time.monotonic() - began < 10
    assert next(stream)[0] == "done"
    assert list(stream) == []


def test_who_comes_back_gets_what_is_new_and_nothing_twice(web: WebProcess, claim: Claim) -> None:
    keep(claim, "first")
    stream = messages(web, 1)
    seen = [next(stream), next(stream)]
    assert [name for name, _, _ in seen] == ["step", "status"]
    assert seen[0][2] is None
    stream.close()
    keep(claim, "second")
    end(claim)
    rest = list(messages(web, 1, seen[1][2]))
    assert [(name, data.get("step")) for name, data, _ in rest] == [
        ("step", "second"),
        ("status", None),
        ("done", None),
    ]
    assert list(messages(web, 1, rest[-1][2])) == []  # 204: a browser does not reconnect


def test_a_step_that_is_committed_late_is_not_missed(
    web: WebProcess, claim: Claim, web_database_url: str
) -> None:
    """The step is inserted before the client connects, and committed afterwards."""
    with psycopg.connect(web_database_url) as late:
        late.execute(
            "INSERT INTO runyard.steps"
            " (invocation_id, step, attempt, output, started_at, finished_at)"
            " VALUES (1, 'late', 1, '1', now(), now())"
        )
        stream = messages(web, 1)
        [first] = [next(stream)]
        stream.close()
        keep(claim, "on-time")
        stream = messages(web, 1, first[2])
        name, data, moment = next(stream)
        assert (name, data["step"]) == ("step", "on-time")
        stream.close()
        late.commit()
    end(claim)
    assert [data.get("step") for name, data, _ in messages(web, 1, moment) if name == "step"] == [
        "late"
    ]


def test_a_step_that_is_tried_again_comes_again(web: WebProcess, claim: Claim) -> None:
    keep(claim, "first", None, '{"type": "ValueError", "message": "not yet", "step": "first"}')
    stream = messages(web, 1)
    assert next(stream)[1]["error"]["message"] == "not yet"
    moment = next(stream)[2]
    stream.close()
    keep(claim, "first")
    end(claim)
    assert [data["error"] for name, data, _ in messages(web, 1, moment) if name == "step"] == [None]


@pytest.mark.parametrize(
    "last",
    [
        "nonsense",
        "5:1:",
        "0",
        "9999999999:9999999999:",
        "1:1:" + "9" * 400,
        "'; DROP TABLE runyard.events; --",
    ],
)
def test_a_last_id_that_is_none_begins_from_the_start(
    web: WebProcess, claim: Claim, last: str
) -> None:
    keep(claim, "first")
    end(claim)
    assert [name for name, _, _ in messages(web, 1, last)] == ["step", "status", "done"]


def test_many_watch_and_one_that_does_not_read_holds_nobody(
    web: WebProcess, claim: Claim, web_database_url: str
) -> None:
    stuck = httpx.stream(
        "GET",
        f"{web.url}/api/invocations/1/stream",
        headers={"Authorization": f"Bearer {web.keys['read']}"},
    )
    with stuck:
        found: list[list[str]] = []
        watchers = [
            threading.Thread(target=lambda: found.append([name for name, _, _ in messages(web, 1)]))
            for _ in range(20)
        ]
        for watcher in watchers:
            watcher.start()
        wait_until(lambda: streams_open(web) >= 21)
        with psycopg.connect(web_database_url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE application_name = 'runyard web watcher'"
            ).fetchone()
        keep(claim, "first")
        end(claim)
        for watcher in watchers:
            watcher.join(15)
    assert row == (1,)
    assert len(found) == 20
    assert all(names[-1] == "done" and "step" in names for names in found)


def test_progress_under_a_lost_lease_is_not_stored(web: WebProcess, claim: Claim) -> None:
    Reporter(claim.batch_id, "another-run", "first").report(1, 50, "not mine")
    reporter = Reporter(claim.batch_id, "run-1", "first")
    for percent in range(0, 101, 10):
        reporter.report(1, percent, "")
    reporter.report(1, 1e9, "\x00far")
    end(claim)
    told = [
        (data["percent"], data["text"]) for name, data, _ in messages(web, 1) if name == "progress"
    ]
    assert told == [(0, ""), (100, ""), (100, "far")]


def test_a_text_comes_in_pieces_as_it_is_written(web: WebProcess, claim: Claim) -> None:
    reporter = Reporter(claim.batch_id, "run-1", "first")
    reporter.report(1, 40, "the poem")
    reporter.write(1, "Queues ")
    reporter.save()
    stream = messages(web, 1)
    pieces = [data for name, data, _ in (next(stream), next(stream)) if name == "progress"]
    assert "written" not in pieces[0]
    assert (pieces[1]["written"], pieces[1]["position"]) == ("Queues ", 0)
    assert (pieces[1]["percent"], pieces[1]["text"]) == (40, "the poem")


def test_a_stream_of_nothing_is_404(web: WebProcess) -> None:
    assert web.get("/api/invocations/77/stream").status_code == 404
