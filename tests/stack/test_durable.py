"""Durable features in the whole stack.

Suspended invocations, flow control across all workers, callbacks, cron schedules, the commands.
"""

import json
import urllib.request
from itertools import pairwise
from typing import Any

import pytest

from runyard import Event, send
from tests.conftest import event, settled, wait_until
from tests.stack.conftest import address, command, finished, graphql
from tests.tables import rows

pytestmark = pytest.mark.usefixtures("stack")


def status(event_id: str) -> str:
    return str(event(event_id)["invocations"][0]["status"])


def test_parallel_branches_suspend_and_resume_in_linked_runs() -> None:
    [event_id] = send("test/dialog", {"key": "d1", "nap": 20})
    asked = "SELECT id FROM runyard.events WHERE name = 'test/asked' AND data->>'key' = 'd1'"
    wait_until(lambda: rows(asked))
    wait_until(lambda: status(event_id) in ("waiting", "sleeping"))
    held = (
        "SELECT id FROM runyard.batches"
        " WHERE function = 'dialog' AND status IN ('claimed', 'running')"
    )
    assert rows(held) == []
    assert "answer: waits for test/answered until" in command("events", "--id", event_id).stdout
    invocation = event(event_id)["invocations"][0]["id"]
    with urllib.request.urlopen(address(f"/dev/invocations/{invocation}"), timeout=30) as page:
        assert "waiting at answer for the event test/answered" in page.read().decode()
    send("test/answered", {"key": "d1", "says": "yes"})
    row = settled(event_id, 90)
    assert (row["status"], row["output"], row["attempt"]) == ("succeeded", ["yes", None], 1)
    assert [step["step"] for step in row["steps"]].count("ask") == 1
    assert finished(row["run_id"]) == "SUCCESS"
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { tags { key value } } } }"
    run = graphql(query, id=row["run_id"])["runOrError"]
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert tags["runyard/event"] == event_id
    assert tags["runyard/continues"] != row["run_id"]


def test_a_function_invokes_another_one_and_its_failure_runs_the_callback() -> None:
    good, bad = send(
        [Event("test/calling", {"n": 1}), Event("test/calling", {"n": 2, "final": True})]
    )
    assert settled(good, 60)["output"]["n"] == 2
    row = settled(bad, 60)
    assert row["status"] == "failed"
    assert "steps failed: NonRetriable: this can never work" in row["error"]["message"]
    callbacks = (
        "SELECT output FROM runyard.invocations"
        " WHERE function = 'calling_on_failure' AND status = 'succeeded'"
    )
    [callback] = wait_until(lambda: rows(callbacks))
    assert callback["output"]["of"] == bad


def test_no_two_invocations_of_a_tenant_run_at_a_time_across_all_workers() -> None:
    ids = send([Event("test/narrow", {"tenant": n % 2}) for n in range(6)])
    spans: dict[int, list[list[float]]] = {0: [], 1: []}
    for number, event_id in enumerate(ids):
        row = settled(event_id, 60)
        assert row["status"] == "succeeded"
        spans[number % 2].append(row["output"])
    for tenant_spans in spans.values():
        ordered = sorted(tenant_spans)
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(ordered))


def test_a_function_is_paused_and_resumed_by_command() -> None:
    assert command("pause", "one_by_one").returncode == 0
    try:
        [event_id] = send("test/narrow", {"tenant": "p"})
        assert "PAUSED" in command("functions").stdout
        # The daemon looks for what is due once more, and launches it.
        [other] = send("test/steps", {"n": 1})
        assert settled(other)["status"] == "succeeded"
        assert status(event_id) == "queued"
    finally:
        assert command("resume", "one_by_one").returncode == 0
    assert settled(event_id)["status"] == "succeeded"
    missing = command("pause", "nothing")
    assert missing.returncode == 1
    assert "runyard functions" in missing.stderr


def test_a_cancel_by_command_reaches_a_run_in_progress(tmp_path: Any) -> None:
    [event_id] = send("test/steps", {"gate": str(tmp_path / "never")})
    wait_until(lambda: status(event_id) == "running")
    done = command("cancel", "--event", event_id, "--yes")
    assert done.returncode == 0
    assert "1 done" in done.stdout
    row = settled(event_id)
    assert row["status"] == "cancelled"
    assert finished(row["run_id"]) == "CANCELED"


def test_dead_letters_are_listed_replayed_and_dismissed() -> None:
    ids = send([Event("test/steps", {"final": True, "n": n, "lot": "dead"}) for n in range(3)])
    assert {settled(event_id)["status"] for event_id in ids} == {"failed"}
    [first, *_] = rows(
        "SELECT id FROM runyard.dead_letters WHERE data->>'lot' = 'dead' ORDER BY id"
    )
    letter = command("dead-letters", "--id", str(first["id"])).stdout
    assert "this can never work" in letter
    assert "Traceback" in letter
    assert '"lot": "dead"' in letter
    chosen = ("--function", "steps", "--filter", '$.data.lot == "dead"')
    dry = command("replay", *chosen, "--dry-run")
    assert "3 invocations to replay" in dry.stdout
    assert len(rows("SELECT id FROM runyard.invocations WHERE event_id = ANY (%s)", ids)) == 3
    assert "3 done" in command("replay", *chosen, "--yes", "--keep-steps").stdout
    assert {settled(event_id)["status"] for event_id in ids} == {"failed"}
    assert "3 done" in command("dismiss", *chosen, "--yes").stdout
    assert rows("SELECT id FROM runyard.dead_letters WHERE data->>'lot' = 'dead'") == []
    assert "replay" in command("bulks").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("replay",), "select something"),
        (("replay", "--since", "noon"), "--since"),
        (("cancel", "--filter", "$.x >"), "character"),
        (("replay", "--resume", "x"), "no bulk"),
    ],
)
def test_an_invalid_selection_is_reported_in_one_line(
    arguments: tuple[str, ...], says: str
) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_cron_schedule_runs_a_function() -> None:
    succeeded = (
        "SELECT event_id FROM runyard.invocations"
        " WHERE function = 'minutely' AND status = 'succeeded' LIMIT 1"
    )
    [row] = wait_until(lambda: rows(succeeded), 90)
    [sent] = rows("SELECT data, source FROM runyard.events WHERE id = %s", row["event_id"])
    assert sent["source"] == "schedule"
    assert sent["data"]["schedule"] == "* * * * *"


def test_what_a_step_prints_in_a_worker_is_kept_for_its_invocation_and_in_dagster() -> None:
    [event_id] = send("test/steps", {"prints": "printed in a worker"})
    invocation = settled(event_id)
    with urllib.request.urlopen(
        address(f"/api/invocations/{invocation['id']}/logs"), timeout=30
    ) as page:
        [log] = json.load(page)["logs"]
    assert (log["step"], [line["text"] for line in log["lines"]]) == (
        "second",
        ["printed in a worker"],
    )
    [key] = {
        row["key"]
        for row in rows(
            "SELECT key FROM runyard.run_output WHERE key LIKE %s", f"{invocation['run_id']}/%"
        )
    }
    query = "query($key: [String!]!) { capturedLogs(logKey: $key) { stdout } }"
    shown = graphql(query, key=key.split("/"))["capturedLogs"]["stdout"]
    assert "printed in a worker\n" in shown
