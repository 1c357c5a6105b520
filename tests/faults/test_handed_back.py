"""A worker that is told to stop hands back its unfinished run, which costs no attempt."""

from pathlib import Path

from runyard import send
from runyard.processes.stack import Stack
from tests.conftest import event, settled, wait_until


def test_a_worker_that_is_told_to_stop_hands_back_its_run_without_an_attempt(
    stack: Stack, effects: Path
) -> None:
    gate = effects / "handed-back"
    [event_id] = send("test/steps", {"gate": str(gate)})
    wait_until(lambda: event(event_id)["invocations"][0]["status"] == "running")
    stack.restart("worker")
    gate.touch()
    assert settled(event_id, 60)["attempt"] == 1
