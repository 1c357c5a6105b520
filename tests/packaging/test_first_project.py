"""From the wheel in an empty environment to a function that has ended, as a newcomer does it."""

import json
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.ports import free_port

pytestmark = pytest.mark.slow
_FAMILIES = re.compile(
    r"\b(?:e-?mails?|sendgrid|outbox|uploads?|videos?|openai|gemini|digest|contact)\b",
    re.IGNORECASE,
)

Command = Callable[..., str]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """An empty folder, which is also the user's home."""
    folder = Path(tempfile.mkdtemp(prefix="ryi-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(installed: Path, home: Path) -> dict[str, str]:
    """An environment with no variables but PATH and HOME."""
    return {"PATH": f"{installed}:/usr/bin:/bin", "HOME": str(home)}


@pytest.fixture(scope="module")
def shop(installed: Path, home: Path, environment: dict[str, str]) -> Iterator[Path]:
    """The project that `runyard init shop` makes, on a port that is free."""
    subprocess.run(["runyard", "init", "shop"], cwd=home, env=environment, check=True)
    folder = home / "shop"
    settings = folder / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    port = f"[tool.runyard]\nport = {free_port()}\n"
    settings.write_text(text.replace("[tool.runyard]\n", port), encoding="utf-8")
    yield folder
    for command in ("down", "delete-database"):
        subprocess.run(["runyard", command], cwd=folder, env=environment, check=True)


@pytest.fixture(scope="module")
def run(shop: Path, environment: dict[str, str]) -> Command:
    """Run a command in the project; return what it prints."""

    def run(*command: str) -> str:
        completed = subprocess.run(
            command,
            cwd=shop,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert completed.returncode == 0, completed.stdout
        return completed.stdout

    return run


@pytest.fixture(scope="module")
def up(shop: Path, environment: dict[str, str]) -> Iterator[list[str]]:
    """The project's stack, ready; the lines that it prints."""
    lines: list[str] = []
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            ["runyard", "up"], cwd=shop, env=environment, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):

        def ready() -> bool:
            output.seek(0)
            lines[:] = output.read().splitlines()
            assert process.poll() is None, "\n".join(lines)
            return any(line.startswith("Ready.") for line in lines)

        try:
            wait_until(ready, 60)
            yield lines
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def test_the_code_is_checked(run: Command) -> None:
    assert run("runyard", "check") == "The code loads: 1 function (hello), 1 event type.\n"


def test_the_tests_pass(run: Command) -> None:
    assert "2 passed" in run("python", "-m", "pytest", "-q")


def test_the_tests_pass_from_another_folder(home: Path, environment: dict[str, str]) -> None:
    command = ["python", "-m", "pytest", "-q", "shop"]
    result = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert "2 passed" in result.stdout


def test_a_function_is_added_with_a_test_that_passes(run: Command) -> None:
    run("runyard", "add", "function", "charge_card", "--event", "shop/order.placed")
    assert "1 passed" in run("python", "-m", "pytest", "-q", "tests/test_charge_card.py")


def test_the_function_runs_to_its_end(run: Command, up: list[str]) -> None:
    sent = run("runyard", "send", "hello/requested", "--data", '{"name": "Ada"}').strip()

    def event() -> dict[str, object]:
        return dict(json.loads(run("runyard", "events", "--id", sent, "--json")))

    def succeeded() -> object:
        [invocation] = event()["invocations"]
        return invocation["status"] == "succeeded" and invocation

    wait_until(succeeded, 60)


def test_a_function_that_is_added_while_the_stack_runs_is_loaded(
    run: Command, up: list[str]
) -> None:
    run("runyard", "add", "function", "wave", "--event", "wave/sent")
    wait_until(lambda: "wave  on wave/sent" in run("runyard", "functions"), 60)


def test_the_stack_comes_up_without_a_warning(up: list[str]) -> None:
    assert [line for line in up if re.search("warn|error|deprecat", line, re.IGNORECASE)] == []


@pytest.mark.parametrize("command", ["doctor --settings", "functions", "configuration"])
def test_no_command_speaks_of_the_families(run: Command, up: list[str], command: str) -> None:
    assert _FAMILIES.findall(run("runyard", *command.split())) == []


@pytest.mark.parametrize("path", ["/dev", "/dev/functions", "/dev/send", "/dev/health", "/docs"])
def test_no_page_speaks_of_the_families(shop: Path, up: list[str], path: str) -> None:
    [address] = re.findall(r"(http://\S+)/dev", " ".join(up))
    with urllib.request.urlopen(f"{address}{path}") as response:
        assert _FAMILIES.findall(response.read().decode()) == []
