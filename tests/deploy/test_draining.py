"""A worker that is told to stop takes no more runs, and finishes its own or hands them back."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard import send
from runyard.settings import settings
from tests.conftest import event, settled, wait_until
from tests.deploy.roles import Deployment, Role, deployed_with_redis
from tests.tables import rows

pytestmark = pytest.mark.slow
CODE = """
import time
from pathlib import Path
from runyard import Item, Run, definitions, function, step

@step
def first(item: Item) -> None:
    _note(item, "first")

@step
def second(item: Item) -> None:
    _note(item, "second")
    while not Path(item.data["gate"]).exists():
        time.sleep(0.05)
    _note(item, "done")

@function("drain/requested", max_batch=1)
def patient(run: Run) -> None:
    first(run)
    second(run)

def _note(item: Item, what: str) -> None:
    with open(item.data["effects"], "a") as file:
        file.write(f"{what}\\n")

defs = definitions(patient)
"""


@pytest.fixture(scope="module")
def deployment(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Code server and daemon, without a worker."""
    folder = tmp_path_factory.mktemp("draining")
    with deployed_with_redis(server, "draining", CODE, folder) as made:
        yield made


class Sent:
    """An event whose function is in its second step until it is let go."""

    def __init__(self, folder: Path) -> None:
        self._gate, self._effects = folder / "gate", folder / "effects"
        data = {"gate": str(self._gate), "effects": str(self._effects)}
        [self.id] = send("drain/requested", data)
        wait_until(lambda: "second" in self.effects, 60)

    @property
    def effects(self) -> list[str]:
        """What its steps have done."""
        return self._effects.read_text().split() if self._effects.exists() else []

    def let_go(self) -> None:
        """Let the second step end."""
        self._gate.touch()


def slots(role: Role) -> list[int]:
    return [row["slots"] for row in rows(f"SELECT slots FROM runyard.workers WHERE pid={role.pid}")]


def end(worker: Role) -> None:
    wait_until(lambda: worker.has_ended, 30)


def test_a_run_in_progress_is_finished(deployment: Deployment, tmp_path: Path) -> None:
    worker = deployment.start_worker("only")
    sent = Sent(tmp_path)
    worker.tell_to_stop()
    wait_until(lambda: "draining: 1 run left, up to 25 s" in worker.log)
    sent.let_go()
    assert settled(sent.id)["status"] == "succeeded"
    end(worker)
    assert sent.effects == ["first", "second", "done"]


def test_a_worker_that_drains_has_no_free_slots(deployment: Deployment, tmp_path: Path) -> None:
    worker = deployment.start_worker("only", slots=3)
    sent = Sent(tmp_path)
    assert slots(worker) == [3]
    worker.tell_to_stop()
    wait_until(lambda: slots(worker) == [1])
    sent.let_go()
    end(worker)
    assert slots(worker) == []


def test_another_worker_takes_what_comes_meanwhile(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    old = deployment.start_worker("only")
    first = Sent(tmp_path / "one")
    old.tell_to_stop()
    new = deployment.start_worker("only")
    second = Sent(tmp_path / "two")
    second.let_go()
    assert settled(second.id)["status"] == "succeeded"
    assert not old.has_ended
    first.let_go()
    end(old)
    new.stop()


def test_a_run_that_takes_longer_goes_on_elsewhere_at_once(
    deployment: Deployment, tmp_path: Path
) -> None:
    old = deployment.start_worker("only", RUNYARD_DRAIN_TIMEOUT="1")
    sent = Sent(tmp_path)
    new = deployment.start_worker("only")
    old.tell_to_stop()
    wait_until(lambda: sent.effects.count("second") == 2, 10)
    sent.let_go()
    assert settled(sent.id)["attempt"] == 1
    assert sent.effects == ["first", "second", "second", "done"]
    [row] = rows(
        "SELECT next.claimed_at < lost.heartbeat_at + make_interval(secs => %s) AS at_once"
        " FROM runyard.batches AS lost, runyard.batches AS next"
        " WHERE lost.status = 'lost' AND next.status <> 'lost' AND next.invocations = %s::bigint[]"
        "   AND lost.invocations = next.invocations",
        settings().lease_seconds,
        [event(sent.id)["invocations"][0]["id"]],
    )
    assert row["at_once"]  # not only when its lease was over
    end(old)
    new.stop()


def test_what_is_handed_back_is_said_and_is_no_crash(
    deployment: Deployment, tmp_path: Path
) -> None:
    worker = deployment.start_worker("only", RUNYARD_DRAIN_TIMEOUT="1")
    sent = Sent(tmp_path)
    worker.tell_to_stop()
    end(worker)
    assert "handed back 1 run" in worker.log
    assert "SIGKILL" not in worker.log
    assert "WorkerLostError" not in worker.log
    sent.let_go()
    new = deployment.start_worker("only")
    settled(sent.id)
    new.stop()


def test_a_child_that_others_have_killed_is_a_crash(deployment: Deployment, tmp_path: Path) -> None:
    worker = deployment.start_worker("only")
    sent = Sent(tmp_path)
    [batch] = rows("SELECT worker FROM runyard.batches WHERE status = 'running'")
    os.kill(int(str(batch["worker"]).rsplit(":", 1)[1]), signal.SIGKILL)
    wait_until(lambda: "exited with 'signal 9 (SIGKILL)'" in worker.log)
    wait_until(lambda: "WorkerLostError" in worker.log)
    sent.let_go()
    settled(sent.id)
    worker.stop()


def test_a_second_signal_hands_back_at_once(deployment: Deployment, tmp_path: Path) -> None:
    worker = deployment.start_worker("only", RUNYARD_DRAIN_TIMEOUT="600")
    sent = Sent(tmp_path)
    worker.tell_to_stop()
    wait_until(lambda: "draining: 1 run left" in worker.log)
    wait_until(lambda: worker.tell_to_stop() or worker.has_ended, 20)
    [invocation] = event(sent.id)["invocations"]
    assert invocation["status"] == "queued"
    assert invocation["attempt"] == 0
    worker = deployment.start_worker("only")
    sent.let_go()
    assert settled(sent.id)["attempt"] == 1
    worker.stop()
