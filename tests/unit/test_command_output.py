"""A command whose output cannot be written ends with one line and a code."""

import subprocess
import sys
from pathlib import Path

import pytest

FULL, NOWHERE = Path("/dev/full"), Path("/dev/null")
COMMANDS = [["configuration"], ["catalog"], ["--help"], ["init", "--help"], ["--version"]]


def run(*arguments: str, stdout: Path = NOWHERE, stderr: Path | None = None) -> tuple[int, str]:
    """Run a command with its outputs in files; return its exit code, and its errors if piped."""
    with stdout.open("w") as output, (stderr or NOWHERE).open("w") as errors:
        process = subprocess.run(
            [sys.executable, "-m", "runyard", *arguments],
            stdout=output,
            stderr=errors if stderr else subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    return process.returncode, process.stderr or ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command: list[str]) -> None:
    says = "runyard: cannot write the output: No space left on device\n"
    assert run(*command, stdout=FULL) == (1, says)


def test_it_is_one_line_without_a_buffer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    says = "runyard: cannot write the output: No space left on device\n"
    assert run("configuration", stdout=FULL) == (1, says)


def test_errors_that_cannot_be_written_end_with_a_code() -> None:
    assert run("keys", "revoke", "none", stderr=FULL)[0] == 1


def test_nothing_is_said_of_a_reader_that_has_gone() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "runyard", "configuration"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == ""
    assert process.wait(60) == 1
