"""What the commands say of errors and of names that there are not."""

import pytest
from click.testing import CliRunner, Result

from runyard.bulk import Selection, count, perform
from runyard.cli import main
from runyard.dispatch import Outcome, begin, settle
from runyard.errors import InvalidOption
from runyard.stack import Stack
from runyard.testing import Yard


def command(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "--function", "nonexistent", "--yes"),
        ("cancel", "--function", "nonexistent", "--yes"),
        ("dismiss", "--function", "nonexistent", "--dry-run"),
        ("dead-letters", "--function", "nonexistent"),
    ],
)
def test_a_function_that_there_is_not_is_an_error(yard: Yard, words: tuple[str, ...]) -> None:
    said = command(*words)
    assert "there is no function nonexistent; `runyard functions` lists them" in said.output
    assert said.exit_code == 1


@pytest.mark.parametrize(("option", "value"), [("--event", "01NONE"), ("--invocation", "987654")])
def test_an_event_or_invocation_that_there_is_not_is_an_error(yard: Yard, option: str, value: str) -> None:
    said = command("replay", option, value, "--yes")
    assert f"there is no {option[2:]} {value}" in said.output
    assert said.exit_code == 1


def test_a_function_with_nothing_to_replay_is_none(yard: Yard) -> None:
    said = command("replay", "--function", "plain", "--yes")
    assert (said.output, said.exit_code) == ("0 invocations to replay\n", 0)


def test_a_bulk_of_a_function_that_there_is_not_is_refused(yard: Yard) -> None:
    with pytest.raises(InvalidOption, match="there is no function nonexistent"):
        count(Selection(function="nonexistent"), "replay")
    with pytest.raises(InvalidOption, match="there is no function nonexistent"):
        next(perform(Selection(function="nonexistent"), "replay"))


def test_an_error_is_shown_with_its_type(yard: Yard) -> None:
    sent = yard.send("stepwise/go")
    yard.advance("1h")
    assert "at careful: ZeroDivisionError: division by zero" in command("dead-letters").output
    assert "stepwise failed (attempt 2): ZeroDivisionError: division by zero" in command("events").output
    assert "careful: ZeroDivisionError: division by zero" in command("events", "--id", sent.id).output


def test_an_error_outside_of_every_step_is_shown_without_a_step(yard: Yard) -> None:
    yard.send("plain/go")
    [batch] = yard.claim("plain")
    begin(batch, "run-1")
    settle(batch, "run-1", [Outcome(1, "failed", error='{"step": null, "type": "RunFailed", "message": "run 1 failed", "traceback": ""}')])
    said = command("dead-letters").output
    assert "plain/go  RunFailed: run 1 failed" in said


def test_an_error_of_an_invocation_is_shown_with_its_type_where_the_run_is_red(yard: Yard) -> None:
    yard.send("stepwise/go")
    [batch] = yard.claim("stepwise")
    run = yard.execute("stepwise", batch)
    assert yard._instance is not None
    texts = [record.user_message + str(record.dagster_event) for record in yard._instance.all_logs(run) if record.dagster_event is not None]
    assert any("the first in step careful: ZeroDivisionError: division by zero" in text for text in texts)


def test_resume_says_that_it_resumed(yard: Yard) -> None:
    command("pause", "plain")
    assert command("resume", "plain").output == "plain is resumed; its events go on.\n"


@pytest.mark.parametrize(("quiet", "says"), [(True, "stack.log"), (False, "see the lines above")])
def test_a_stack_that_is_not_ready_says_where_to_read_why(yard: Yard, quiet: bool, says: str) -> None:
    with pytest.raises(Exception, match=says):
        Stack(quiet=quiet).wait_ready(0)
