"""Events through every entry point, seen from outside."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from runyard import Event, send
from runyard.processes.stack import Stack
from runyard.store import database
from tests.conftest import ROOT, event, settled, wait_until
from tests.fake_sendgrid import FakeSendGrid
from tests.stack.conftest import address, command, finished, graphql

NAME = "email/send.requested"

pytestmark = pytest.mark.usefixtures("stack")


def post(body: Any, path: str = "/e/any-key", **headers: str) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        address(path), data, {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text.startswith(b"{") else {"text": text.decode()}


def mail(address: str) -> dict[str, Any]:
    return {"to": [address], "template": "welcome", "data": {"name": "Ada"}}


def test_http_python_sql_and_the_shell_become_mails(sendgrid: FakeSendGrid) -> None:
    status, body = post(
        [
            {"name": NAME, "data": mail("http1@example.com")},
            {"name": NAME, "data": mail("http2@example.com")},
        ]
    )
    assert status == 200
    with database.connection() as connection:
        row = connection.execute(
            "SELECT runyard.send(%s, %s::jsonb) AS id", (NAME, json.dumps(mail("sql@example.com")))
        ).fetchone()
    assert row is not None
    shell = command("send", NAME, "--data", json.dumps(mail("shell@example.com")))
    assert shell.returncode == 0, shell.stderr
    ids = [
        *body["ids"],
        str(row["id"]),
        *send(NAME, mail("python@example.com")),
        shell.stdout.strip(),
    ]
    assert [settled(event_id)["status"] for event_id in ids] == ["succeeded"] * 5
    for who in ("http1", "http2", "sql", "shell", "python"):
        assert len(sendgrid.to(f"{who}@example.com")) == 1


def test_bursts_are_batched_into_shared_runs_and_lose_nothing(sendgrid: FakeSendGrid) -> None:
    ids = send([Event(NAME, mail(f"burst{n}@example.com")) for n in range(300)])
    rows = [settled(event_id, 60) for event_id in ids]
    assert {row["status"] for row in rows} == {"succeeded"}
    assert len({row["run_id"] for row in rows}) <= 5
    assert all(len(sendgrid.to(f"burst{n}@example.com")) == 1 for n in range(300))


def test_the_same_event_id_makes_one_mail(sendgrid: FakeSendGrid) -> None:
    answers = [
        post({"name": NAME, "id": "once-only", "data": mail("once@example.com")}) for _ in range(3)
    ]
    ids = {body["ids"][0] for _, body in answers}
    assert len(ids) == 1
    assert settled(ids.pop())["status"] == "succeeded"
    assert len(sendgrid.to("once@example.com")) == 1


def test_a_request_for_another_host_is_refused() -> None:
    assert post({"name": "a/b"}, Host="evil.example.com")[0] == 400


def test_an_event_without_a_function_is_stored_and_shown() -> None:
    [event_id] = send("order/placed", {"order": 7})
    assert event(event_id)["invocations"] == []
    assert "unmatched" in command("events", "--id", event_id).stdout


def test_a_failure_is_retried_and_every_run_is_visible(effects: Path) -> None:
    [event_id] = send("test/steps", {"key": "retried", "fail_until": 1})
    row = settled(event_id)
    assert (row["status"], row["attempt"]) == ("succeeded", 2)
    assert (effects / "retried").read_text().splitlines() == ["first 0 1", "second 0 2"]
    query = """query($filter: RunsFilter) {
        runsOrError(filter: $filter) { ... on Runs {
            results { runId status tags { key value } stepStats { stepKey status } }
        } } }"""
    assert finished(row["run_id"]) == "SUCCESS"  # an invocation is final shortly before its run
    tagged = {"tags": [{"key": "runyard/event", "value": event_id}]}
    runs = graphql(query, filter=tagged)["runsOrError"]["results"]
    assert sorted(run["status"] for run in runs) == ["FAILURE", "SUCCESS"]
    [red] = [run for run in runs if run["status"] == "FAILURE"]
    assert {step["stepKey"] for step in red["stepStats"] if step["status"] == "FAILURE"} == {
        "second",
        "settle",
    }
    assert {tag["key"] for tag in red["tags"]} >= {
        "runyard/function",
        "runyard/batch",
        "runyard/event",
    }


def test_ops_in_processes_of_their_own_pass_the_batch_on(effects: Path) -> None:
    ids = send([Event("test/spread", {"key": "spread", "n": n}) for n in range(3)])
    rows = [settled(event_id, 60) for event_id in ids]
    assert [(row["status"], row["attempt"], row["output"]["n"]) for row in rows] == [
        ("succeeded", 1, n + 1) for n in range(3)
    ]
    assert sorted((effects / "spread").read_text().splitlines()) == sorted(
        f"{step} {n} 1" for step in ("first", "second") for n in range(3)
    )


def test_an_error_outside_every_step_is_retried_too() -> None:
    [event_id] = send("test/breaking", {"explode": True})
    row = settled(event_id)
    assert (row["status"], row["attempt"]) == ("succeeded", 2)


def test_dagsters_own_command_launches_with_events_in_the_config(
    tmp_path: Path, stack: Stack
) -> None:
    config = tmp_path / "run.json"
    config.write_text(
        json.dumps({"ops": {"receive": {"config": {"events": [{"data": {"n": 41}}]}}}})
    )
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from:\n  - python_module:\n      module_name: tests.code\n")
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "dagster",
            "job",
            "launch",
            "-w",
            str(workspace),
            "-j",
            "steps",
            "--config",
            str(config),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert launched.returncode == 0, launched.stderr
    with database.connection() as connection:
        row = wait_until(
            lambda: connection.execute(
                "SELECT id FROM runyard.events WHERE source = 'launch'"
            ).fetchone()
        )
    launched_row = settled(str(row["id"]))
    assert launched_row["output"] == {"n": 42, "size": 1}
    assert finished(launched_row["run_id"]) == "SUCCESS"


def test_the_doctor_reports_a_healthy_stack_and_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    healthy = command("doctor", "--settings")
    assert healthy.returncode == 0, healthy.stdout
    assert healthy.stdout.count("ok  ") == 15
    assert "tests.code loads, with " in healthy.stdout
    assert "SG.fake" not in healthy.stdout
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:9/none")
    failing = command("doctor")
    assert failing.returncode == 1
    assert "FAIL  database" in failing.stdout
    assert "hunter2" not in failing.stdout + failing.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("send", NAME, "--data", "{to: x}"), 2, "--data is not valid JSON (line 1, column 2)"),
        (("send", NAME, "--data", '{"to": "x"}'), 1, "data.to: "),
        (("send", "", "--data", "{}"), 1, "name"),
        (("send",), 2, "Missing argument"),
        (("events", "--id", "nope"), 1, "no event"),
        (("web",), 1, "--api-only"),
        (("keys", "create", "x", "--scope", "sned"), 1, "send, read, manage"),
    ],
)
def test_an_invalid_command_says_what_to_do(
    arguments: tuple[str, ...], code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments == ("web",):
        monkeypatch.setenv("RUNYARD_HOST", "0.0.0.0")
    done = command(*arguments)
    assert done.returncode == code
    assert says in done.stderr
    if "Missing" not in says:
        assert len(done.stderr.strip().splitlines()) == 1


def test_functions_are_listed() -> None:
    listed = command("functions").stdout
    assert "send_email  on email/send.requested" in listed
    assert "steps  on test/steps, test/also" in listed


def test_a_stack_that_is_up_is_ready_and_alive() -> None:
    for path in ("/healthz", "/readyz", "/readyz?all=true"):
        with urllib.request.urlopen(address(path), timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"


def test_a_stack_is_stopped_in_the_time_that_it_was_started_with(stack: Stack) -> None:
    stopped_by = Stack()
    stopped_by.drain_timeout = 600.0
    assert stopped_by.seconds_to_stop() == stack.seconds_to_stop()
    assert stopped_by.seconds_to_stop() < 600
