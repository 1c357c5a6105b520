"""Logs as JSON: what a line has, and that a real process writes nothing else."""

import json
import logging
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from runyard.cli import terminal
from runyard.text.json_lines import (
    LONGEST_LINE,
    JsonFormatter,
    as_json_line,
    as_records,
    working_on,
)

SCRIPT = """
import logging
from runyard.text.json_lines import log_as_json
log_as_json("warning")
log = logging.getLogger("shop")
log.info("not logged")
log.warning("no stock of %s\\nat all", "apples")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("password=hunter2-hunter2 was wrong")
"""


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("shop", logging.WARNING, __file__, 1, message, (), None)


@pytest.fixture
def logged() -> list[dict[str, str]]:
    """What a process writes that logs twice, once with a traceback."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_every_line_of_a_process_is_json(logged: list[dict[str, str]]) -> None:
    assert [line["level"] for line in logged] == ["warning", "error"]
    assert logged[0]["message"] == "no stock of apples\nat all"
    assert logged[0]["logger"] == "shop"


def test_a_traceback_is_in_the_line_of_its_error(logged: list[dict[str, str]]) -> None:
    assert "ZeroDivisionError" in logged[1]["traceback"]


def test_a_secret_is_not_in_the_line(logged: list[dict[str, str]]) -> None:
    assert logged[1]["message"] == "password=[redacted] was wrong"


def test_a_line_says_what_is_being_worked_on() -> None:
    token = working_on.set(lambda: {"invocation": 7, "step": "pack"})
    try:
        line = json.loads(JsonFormatter().format(record("no stock")))
    finally:
        working_on.reset(token)
    assert line["invocation"] == 7
    assert line["step"] == "pack"


@pytest.mark.parametrize("text", ["x" * 5_000_000, "\U0001f422" * 50_000, '"' * 50_000])
def test_a_line_has_a_bounded_length(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        long = logging.LogRecord("shop", logging.ERROR, "x.py", 1, text, (), sys.exc_info())
    line = JsonFormatter().format(long)
    assert len(line) < LONGEST_LINE
    assert json.loads(line)["message"].startswith(text[:100])


def test_of_a_long_traceback_the_end_is_in_the_line() -> None:
    def call(depth: int) -> None:
        if not depth:
            raise ValueError("no stock")
        (lambda: call(depth - 1))()

    try:
        call(300)
    except ValueError:
        long = logging.LogRecord("shop", logging.ERROR, "x.py", 1, "text", (), sys.exc_info())
    line = json.loads(JsonFormatter().format(long))
    assert line["traceback"].endswith("ValueError: no stock")


def test_a_secret_at_the_end_of_a_long_message_is_not_in_parts_in_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "swordfish-7")
    line = JsonFormatter().format(record("swordfish-7 " * 10_000))
    assert "sword" not in line


def test_a_line_of_json_gets_the_name_of_its_process() -> None:
    line = JsonFormatter().format(record("no stock"))
    assert json.loads(as_json_line("worker", line)) == {
        "process": "worker",
        **json.loads(line),
    }


def test_a_printed_line_of_json_has_a_time_and_a_level_and_cannot_name_another_process() -> None:
    line = json.loads(as_json_line("worker", '{"message": "packed", "process": "postgres"}'))
    assert line["process"] == "worker"
    assert line["logger"] == "worker"
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


@pytest.mark.parametrize(
    "output",
    [
        "LOG:  ready",
        "7",
        '{"a": 1}',
        "",
        "null",
        "[" * 2_000,
        f'{{"message": {"[" * 2_000}{"]" * 2_000}}}',
        f'{{"message": {"7" * 5_000}}}',
        '{"message": NaN}',
        "\ud800",
    ],
)
def test_any_other_line_becomes_one_of_json(output: str) -> None:
    line = json.loads(as_json_line("postgres", output))
    assert (line["process"], line["logger"], line["message"]) == ("postgres", "postgres", output)


@pytest.mark.parametrize(
    "end",
    [
        "raise ValueError('the end')",
        "threading.Thread(target=lambda: int('the end')).start()",
        "warnings.warn('the end')",
    ],
)
def test_what_ends_a_process_or_a_thread_and_a_warning_are_json(end: str) -> None:
    script = f"""
import threading, warnings
from runyard.text.json_lines import log_as_json
log_as_json("warning")
{end}
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert "the end" in line["message"] + line.get("traceback", "")


def test_an_indented_line_belongs_to_the_one_before() -> None:
    assert as_records(["ERROR: no such table", "\tLINE 1: SELECT", "next", ""]) == [
        "ERROR: no such table\n\tLINE 1: SELECT",
        "next",
    ]


def test_a_traceback_is_one_record() -> None:
    trace = ["Traceback (most recent call last):", '  File "a.py", line 1', "KeyError: 'card'"]
    assert as_records([*trace, "next"]) == ["\n".join(trace), "next"]


def test_a_command_of_the_stack_prints_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_as_json", True)
    printed = CliRunner().invoke(click.command()(lambda: terminal.echo("password=hunter2hunter2")))
    assert json.loads(printed.output)["message"] == "password=[redacted]"


_REDIRECTED = """
import logging, os, sys
from runyard.text.json_lines import log_as_json

log_as_json("warning")
log = logging.getLogger("shop")
log.warning("before the run")
own, of_run = os.dup(2), os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.dup2(of_run, 2)
log.warning("in the run")
os.dup2(own, 2)
log.warning("after the run")
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str]]:
    """The messages in the output of a process, and of its run, which had standard error."""
    of_run = tmp_path_factory.mktemp("run") / "err"
    process = subprocess.run(
        [sys.executable, "-c", _REDIRECTED, str(of_run)],
        capture_output=True,
        text=True,
        check=True,
    )
    own, of_its_run = (
        [json.loads(line)["message"] for line in text.splitlines()]
        for text in (process.stderr, of_run.read_text())
    )
    return own, of_its_run


def test_every_record_is_once_in_the_output_of_the_process(
    outputs: tuple[list[str], list[str]],
) -> None:
    assert outputs[0] == ["before the run", "in the run", "after the run"]


def test_a_record_of_a_run_is_in_the_output_of_the_run(
    outputs: tuple[list[str], list[str]],
) -> None:
    assert outputs[1] == ["in the run"]
