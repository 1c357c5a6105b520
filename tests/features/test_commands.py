"""What the commands say of errors and of names that there are not."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runyard.cli.input import MOST_BYTES
from runyard.cli.main import main
from runyard.engine import api_keys
from runyard.engine.bulk import Selection, count, perform
from runyard.engine.dispatch import Outcome, begin, settle
from runyard.errors import InvalidOption
from runyard.processes.stack import Stack
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
def test_an_event_or_invocation_that_there_is_not_is_an_error(
    yard: Yard, option: str, value: str
) -> None:
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
    assert (
        "stepwise failed (attempt 2): ZeroDivisionError: division by zero"
        in command("events").output
    )
    assert (
        "careful: ZeroDivisionError: division by zero" in command("events", "--id", sent.id).output
    )


def test_an_error_outside_of_every_step_is_shown_without_a_step(yard: Yard) -> None:
    yard.send("plain/go")
    [batch] = yard.claim("plain")
    begin(batch, "run-1")
    settle(
        batch,
        "run-1",
        [
            Outcome(
                1,
                "failed",
                error='{"step": null, "type": "RunFailed", "message": "run 1 failed", "traceback": ""}',
            )
        ],
    )
    said = command("dead-letters").output
    assert "plain/go  RunFailed: run 1 failed" in said


def test_an_error_of_an_invocation_is_shown_with_its_type_where_the_run_is_red(yard: Yard) -> None:
    yard.send("stepwise/go")
    [batch] = yard.claim("stepwise")
    run = yard.execute("stepwise", batch)
    assert yard._instance is not None
    texts = [
        record.user_message + str(record.dagster_event)
        for record in yard._instance.all_logs(run)
        if record.dagster_event is not None
    ]
    assert any(
        "the first in step careful: ZeroDivisionError: division by zero" in text for text in texts
    )


def test_resume_says_that_it_resumed(yard: Yard) -> None:
    command("pause", "plain")
    assert command("resume", "plain").output == "plain is resumed; its events go on.\n"


@pytest.mark.parametrize(("quiet", "says"), [(True, "stack.log"), (False, "see the lines above")])
def test_a_stack_that_is_not_ready_says_where_to_read_why(
    yard: Yard, quiet: bool, says: str
) -> None:
    with pytest.raises(Exception, match=says):
        Stack(quiet=quiet).wait_ready(0)


MAIL = '{"to": "ada@example.com", "subject": "Zoë\'s news", "text": "hi"}'
READ = {
    "UTF-8": MAIL.encode(),
    "UTF-8 with a byte order mark": MAIL.encode("utf-8-sig"),
    "UTF-16, as PowerShell 5 writes it": MAIL.encode("utf-16"),
    "UTF-16 in the other order": b"\xfe\xff" + MAIL.encode("utf-16-be"),
    "UTF-16 without a mark": MAIL.encode("utf-16-le"),
    "UTF-32": MAIL.encode("utf-32"),
    "line breaks of Windows": b"\r\n" + MAIL.replace(", ", ",\r\n").encode() + b"\r\n",
}
UNREADABLE = {
    "nothing": (b"", "is empty; give an event's data"),
    "spaces": (b" \r\n", "is empty; give an event's data"),
    "a mark alone": (b"\xff\xfe", "is empty; give an event's data"),
    "an empty array": (b"[]", "the array is empty: there is no event to send"),
    "no JSON": (b'{"to": "a",\n  to: 1}', "line 2, column 3, is not JSON"),
    "two objects": (b'{"a": 1}\n{"a": 2}', "line 2, column 1, is not JSON: Extra data"),
    "Latin-1": (
        '{"name": "Zo\xeb"}'.encode("latin-1"),
        "is not text in UTF-8, UTF-16 or UTF-32 (byte 13): save it as UTF-8",
    ),
    "half of UTF-16": (MAIL.encode("utf-16")[:-1], "is not text in UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not text in UTF-8"),
    "lists in lists": (b"[" * 100_000, "it is nested too deep"),
    "a long number": (b'{"n": ' + b"9" * 5000 + b"}", "is not JSON that can be taken"),
    "too much": (b" " * (MOST_BYTES + 1), "has more than 32 MiB; send its events in several files"),
}


def one_line(said: Result) -> str:
    """What a command says that cannot read what it was given."""
    assert said.exit_code == 2
    [line] = said.output.splitlines()
    assert line.startswith("runyard: ")
    return line


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_in_every_encoding_of_unicode(yard: Yard, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mail.json"
    path.write_bytes(READ[name])
    said = command("send", "plain/go", "--file", str(path))
    assert said.exit_code == 0, said.output
    assert yard.sent("plain/go")[0].data["subject"] == "Zoë's news"


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line_that_says_why(
    yard: Yard, tmp_path: Path, name: str
) -> None:
    content, says = UNREADABLE[name]
    path = tmp_path / "mail.json"
    path.write_bytes(content)
    assert says in one_line(command("send", "plain/go", "--file", str(path)))
    assert yard.sent("plain/go") == []


def test_a_file_that_there_is_not_and_a_folder_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    assert (
        one_line(command("send", "plain/go", "--file", str(missing)))
        == f"runyard: there is no file {missing}"
    )
    assert (
        one_line(command("send", "plain/go", "--file", str(tmp_path)))
        == f"runyard: {tmp_path} is a folder; give a file"
    )


def test_a_device_without_an_end_is_not_read_to_its_end() -> None:
    assert "has more than 32 MiB" in one_line(command("send", "plain/go", "--file", "/dev/zero"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{to: x}", "--data, line 1, column 2, is not JSON"),
        ("[]", "the array is empty"),
        (" ", "--data is empty"),
    ],
)
def test_an_option_that_is_no_json_is_one_line_that_says_why(
    yard: Yard, data: str, says: str
) -> None:
    assert says in one_line(command("send", "plain/go", "--data", data))


def test_several_events_of_a_file_are_all_sent(yard: Yard, tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    path.write_bytes(b'\xef\xbb\xbf[{"n": 1}, {"n": 2}]')
    assert len(command("send", "plain/go", "--file", str(path)).output.splitlines()) == 2
    assert sorted(sent.data["n"] for sent in yard.sent("plain/go")) == [1, 2]


KEY = "a-key-that-a-client-has-already-0123456789"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nmore\n"])
def test_a_key_is_read_from_standard_input_as_any_shell_pipes_it(
    yard: Yard, encoding: str, end: str
) -> None:
    key = f"{KEY}-{encoding}-{len(end)}"
    piped = (key + end).encode(encoding)
    said = CliRunner().invoke(
        main, ["keys", "create", "client", "--scope", "send", "--stdin"], input=piped
    )
    assert said.exit_code == 0, said.output
    assert api_keys.digest(key) in [valid.hash for valid in api_keys.valid()]


def test_a_key_that_is_no_text_is_refused(yard: Yard) -> None:
    said = CliRunner().invoke(
        main, ["keys", "create", "client", "--scope", "send", "--stdin"], input=b"\x80abc\n"
    )
    assert "standard input is not text" in one_line(said)
