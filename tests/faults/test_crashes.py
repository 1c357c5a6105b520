"""Any process is killed at any time: nothing is lost, and no two workers do the same work."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from runyard import Event, send
from runyard.processes.stack import Stack
from runyard.processes.stack_files import stack_workspace
from runyard.store import database
from runyard.store.embedded import start_embedded
from tests.conftest import ROOT, settled, wait_until
from tests.process_tree import kill_tree
from tests.stack.conftest import address


def test_a_killed_worker_loses_nothing_and_no_completed_step_is_re_run(
    stack: Stack, effects: Path
) -> None:
    ids = send(
        [Event("test/steps", {"key": "killed", "n": n, "seconds": 0.02}) for n in range(200)]
    )
    marks = effects / "killed"
    wait_until(lambda: marks.exists() and marks.read_text().count("second") >= 60, 30)
    kill_tree(stack.pid("worker"))
    began = time.monotonic()
    before = marks.read_text().splitlines()
    rows = [settled(event_id, 60) for event_id in ids]
    assert time.monotonic() - began < 60
    assert {row["status"] for row in rows} == {"succeeded"}
    assert sorted(row["output"]["n"] for row in rows) == list(range(1, 201))
    lines = marks.read_text().splitlines()
    # `first` was completed for all before the kill; only the `second` in progress may run twice.
    assert sum(line.startswith("first") for line in lines) == 200
    assert sum(line.startswith("second") for line in lines) <= 201
    assert sum(line.startswith("second") for line in before) >= 60


def test_a_killed_child_is_replaced_and_its_batch_continues(stack: Stack, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    [event_id] = send("test/steps", {"gate": str(gate)})
    running = (
        "SELECT worker FROM runyard.batches WHERE status = 'running'"
        " ORDER BY started_at DESC LIMIT 1"
    )
    with database.connection() as connection:
        worker = wait_until(lambda: connection.execute(running.encode()).fetchone())
    os.kill(int(str(worker["worker"]).rsplit(":", 1)[1]), signal.SIGKILL)
    gate.touch()
    assert settled(event_id, 60)["status"] == "succeeded"


def test_a_worker_works_on_after_its_idle_children_were_killed(
    stack: Stack,
) -> None:
    worker = psutil.Process(stack.pid("worker"))
    for pid in {child.pid for child in worker.children()}:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda pid=pid: (
                pid not in (pids := {child.pid for child in worker.children()})
                and len(pids) >= stack.settings.concurrency
            )
        )
    assert settled(send("test/steps", {"n": 1})[0], 60)["status"] == "succeeded"
    assert psutil.Process(stack.pid("worker")) == worker


@pytest.mark.parametrize("part", ["daemon", "code", "web", "worker"])
def test_a_killed_part_restarts_and_every_event_is_done(
    stack: Stack, effects: Path, part: str
) -> None:
    key = f"part-{part}"
    ids = [send("test/steps", {"key": key, "n": n})[0] for n in range(10)]
    old = stack.pid(part)
    kill_tree(old)
    ids += [send("test/steps", {"key": key, "n": n})[0] for n in range(10, 20)]
    wait_until(lambda: stack.pid(part) not in (0, old))
    assert [settled(event_id, 60)["status"] for event_id in ids] == ["succeeded"] * 20
    lines = (effects / key).read_text().splitlines()
    done = {int(line.split()[1]) for line in lines if line.startswith("second")}
    assert done == set(range(20))
    stack.wait_ready()


def test_claims_of_a_dead_daemons_tick_are_released_before_a_lease_expires(stack: Stack) -> None:
    old = stack.pid("daemon")
    kill_tree(old)
    # Its ticks still wait in the code server, and the first of them claims this event.
    [event_id] = send("test/steps", {"n": 1})
    assert settled(event_id, 60)["status"] == "succeeded"
    wait_until(lambda: stack.pid("daemon") not in (0, old))
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT extract(epoch FROM batches.finished_at - batches.claimed_at)::float8 AS seconds"
            " FROM runyard.batches, runyard.invocations WHERE batches.status = 'lost'"
            " AND invocations.id = ANY (batches.invocations) AND event_id = %s",
            (event_id,),
        ).fetchall()
    assert [row for row in rows if float(str(row["seconds"])) >= stack.settings.lease_seconds] == []


def test_a_daemon_does_not_warn_of_the_ticks_that_an_earlier_one_left(
    stack: Stack,
) -> None:
    before = len(stack.log.read_text())
    old = stack.pid("daemon")
    kill_tree(old)
    wait_until(lambda: stack.pid("daemon") not in (0, old))
    stack.wait_ready()
    [event_id] = send("test/steps", {"n": 1})
    assert settled(event_id, 60)["status"] == "succeeded"
    assert "dangling" not in stack.log.read_text()[before:]


def listeners() -> int:
    """How many processes listen for what the database notifies of."""
    with database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
        ).fetchone()
    assert row is not None
    return int(row["count"])


def test_two_daemons_never_launch_a_batch_twice(stack: Stack, effects: Path) -> None:
    before = listeners()
    second = subprocess.Popen(
        [sys.executable, "-m", "runyard", "daemon", "--workspace", str(stack_workspace())],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: listeners() > before, 60)
        ids = [send("test/steps", {"key": "two-daemons", "n": n})[0] for n in range(60)]
        assert [settled(event_id, 60)["status"] for event_id in ids] == ["succeeded"] * 60
    finally:
        second.kill()
        second.wait()
    lines = (effects / "two-daemons").read_text().splitlines()
    assert sorted(lines) == sorted(
        f"{step} {n} 1" for step in ("first", "second") for n in range(60)
    )
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT run_id, count(*) AS n FROM runyard.batches"
            " WHERE run_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
        ).fetchall()
    assert rows == []


def test_everything_works_again_after_a_restart_of_the_database(stack: Stack) -> None:
    folder = stack.settings.postgres_dir
    body = json.dumps({"name": "test/steps", "data": {"n": 1}}).encode()

    def post() -> tuple[int, str | None]:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(address("/e/key"), body), timeout=30
            ) as answer:
                return answer.status, json.load(answer)["ids"][0]
        except urllib.error.HTTPError as error:
            assert error.headers["Retry-After"]
            return error.code, None

    before = [post()[1] for _ in range(5)]
    postmaster = int((folder / "postmaster.pid").read_text().splitlines()[0])
    kill_tree(postmaster)
    assert post()[0] == 503
    start_embedded(folder)
    wait_until(lambda: post()[0] == 200)
    after = [post()[1] for _ in range(5)]
    for event_id in [*before, *after]:
        assert event_id is not None
        assert settled(event_id, 60)["status"] == "succeeded"
    stack.wait_ready()


def test_suspended_invocations_survive_the_death_of_every_process(stack: Stack) -> None:
    ids = send([Event("test/dialog", {"key": f"fault{n}", "nap": 8}) for n in range(3)])
    with database.connection() as connection:
        suspended = (
            b"SELECT id FROM runyard.invocations"
            b" WHERE event_id = ANY (%s) AND status IN ('waiting', 'sleeping')"
        )
        wait_until(lambda: len(connection.execute(suspended, (ids,)).fetchall()) == 3, 120)
    for pid in [stack.pid(part) for part in ("daemon", "worker", "code")]:
        kill_tree(pid)
    send([Event("test/answered", {"key": f"fault{n}", "says": n}) for n in range(3)])
    rows = [settled(event_id, 90) for event_id in ids]
    assert [(row["status"], row["output"]) for row in rows] == [
        ("succeeded", [n, None]) for n in range(3)
    ]
    with database.connection() as connection:
        asked = connection.execute(
            "SELECT count(*) AS n FROM runyard.events"
            " WHERE name = 'test/asked' AND data->>'key' LIKE 'fault%'"
        ).fetchone()
    assert asked == {"n": 3}
    stack.wait_ready()
