"""What an application controls from Python: replay, cancel, run now, pause and resume."""

import subprocess
import sys

import pytest

import runyard
from runyard import InvalidOption, RunyardError, Selection
from runyard.testing import Yard


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(runyard, name) is not None for name in runyard.__all__)


def test_controlling_functions_does_not_import_dagster() -> None:
    names = "Selection, replay, cancel, pause, resume, run_now"
    code = f"import sys; from runyard import {names}; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_failures_are_replayed_as_new_invocations(yard: Yard) -> None:
    failed = yard.run("plain", {"fails": 1, "kind": "final"})
    yard.stub("work", "mended")
    assert runyard.replay(Selection(function="plain")) == 1
    yard.work()
    [again] = [each for each in yard.invocations("plain") if each.replay_of == failed.id]
    assert again.status == "succeeded"


def test_a_replay_can_keep_completed_steps(yard: Yard) -> None:
    invocation = yard.run("sleeper")
    yard.advance("3d")
    assert invocation.status == "succeeded"
    assert runyard.replay(Selection(invocations=(invocation.id,)), keep_steps=True) == 1
    yard.work()
    assert yard.invocations("sleeper")[-1].status == "succeeded"


def test_open_invocations_are_cancelled(yard: Yard) -> None:
    invocation = yard.run("sleeper")
    assert runyard.cancel(Selection(function="sleeper")) == 1
    assert invocation.status == "cancelled"


def test_what_sleeps_is_run_now_and_what_has_finished_is_left_alone(yard: Yard) -> None:
    sleeping, finished = yard.run("sleeper"), yard.run("plain")
    assert runyard.run_now(sleeping.id, finished.id) == [sleeping.id]
    yard.work()
    assert sleeping.status == "succeeded"


def test_a_paused_function_runs_nothing_until_it_is_resumed(yard: Yard) -> None:
    runyard.pause("plain")
    sent = yard.send("plain/go")
    assert yard.work() == 0
    runyard.resume("plain")
    yard.work()
    assert sent.invocation.status == "succeeded"


def test_a_function_that_does_not_exist_cannot_be_paused(yard: Yard) -> None:
    with pytest.raises(RunyardError, match="there is no function nobody"):
        runyard.pause("nobody")


def test_an_unsuitable_status_is_rejected(yard: Yard) -> None:
    with pytest.raises(InvalidOption, match="cannot cancel invocations that are succeeded"):
        runyard.cancel(Selection(status=("succeeded",)))
