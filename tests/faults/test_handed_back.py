"""A worker that is told to stop hands back what it has not done, and that costs nobody an attempt."""

from pathlib import Path

from runyard import send
from runyard.processes.stack import Stack
from tests.conftest import event, settled, wait_until


def test_a_worker_that_is_told_to_stop_hands_back_its_run_without_an_attempt(
    stack: Stack, effects: Path
) -> None:
    gate = effects / "handed-back"
    [sent] = send("test/steps", {"gate": str(gate)})
    wait_until(lambda: event(sent)["invocations"][0]["status"] == "running")
    stack.restart("worker")
    gate.touch()
    assert settled(sent, 60)["attempt"] == 1
