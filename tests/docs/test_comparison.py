"""The same function in several systems: docs/comparison.md shows these files, and they run."""

import ast
import base64
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster
import pytest

from benchmarks.peers.environments import make_environment
from runyard.functions import registry
from runyard.testing import Yard, empty_event_table
from tests.conftest import ROOT, use_database

COMPARISON = Path(__file__).parent / "comparison"
PAGE = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
TOOLS = {
    "runyard": "Runyard",
    "inngest": "Inngest",
    "hatchet": "Hatchet",
    "procrastinate": "procrastinate",
    "dagster": "Dagster alone",
}
# The benchmarks have procrastinate in an environment of its own already.
_PINS = {"hatchet": str(COMPARISON / "hatchet"), "procrastinate": "procrastinate"}
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"(?<=\n)\n\n(?=def test_)")
_TENANT = "00000000-0000-4000-8000-000000000000"


def _parts(tool: str) -> tuple[str, str]:
    """The function and the test of a file."""
    function, test = _TEST.split((COMPARISON / f"{tool}_payment.py").read_text(encoding="utf-8"))
    return function, test


def _lines(text: str) -> int:
    return len([line for line in text.splitlines() if line.strip()])


def _configuration(tool: str) -> str:
    """What the function needs besides its code."""
    return (COMPARISON / "dagster.yaml").read_text(encoding="utf-8") if tool == "dagster" else ""


def _own_names(tree: ast.Module) -> set[str]:
    """What the file defines at its top: names that its author has to find."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _root(node: ast.expr) -> str:
    """The name that an expression begins with."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _tool_names(tree: ast.Module) -> set[str]:
    """What the author has to know of the tool: its names, attributes and keywords in the file.

    What the file defines itself, what it takes from `shop`, and Python's own is left out.
    """
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    known = {"str", "int", "dict", "payment"}  # a payment is the shop's own
    from_tool: set[str] = set()
    for node in imports:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        names = {alias.asname or alias.name for alias in node.names}
        if module.partition(".")[0] in sys.stdlib_module_names | {"shop"}:
            known |= names
        elif isinstance(node, ast.ImportFrom):
            from_tool |= names
    own = _own_names(tree) | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {
        node.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in from_tool:
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and _root(node) not in known:
            used.add(node.attr)
        elif isinstance(node, ast.Call) and _root(node) not in known:
            used |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return used - own


def _row(tool: str) -> str:
    function, test = _parts(tool)
    tree = ast.parse(function)
    cells = [
        TOOLS[tool],
        _lines(function) + _lines(_configuration(tool)),
        _lines(test),
        len(_own_names(tree)),
        len(_tool_names(tree)),
    ]
    return f"| {' | '.join(map(str, cells))} |"


@pytest.mark.parametrize("tool", TOOLS)
def test_the_page_counts_lines_and_names_as_they_are(tool: str) -> None:
    assert _row(tool) in PAGE.splitlines()


@pytest.mark.parametrize("tool", TOOLS)
def test_the_page_shows_the_function_and_its_test(tool: str) -> None:
    shown = _PYTHON.findall(PAGE)
    assert [part for part in _parts(tool) if part not in shown] == []


def test_the_page_shows_the_configuration_of_dagster() -> None:
    assert f"```yaml\n{_configuration('dagster')}```" in PAGE


@pytest.fixture
def payment(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The file of Runyard."""
    use_database(server, "comparison")
    empty_event_table()
    monkeypatch.syspath_prepend(str(COMPARISON))
    monkeypatch.setattr(registry, "_functions", {})
    yield import_module("runyard_payment")
    for name in ("runyard_payment", "shop"):
        sys.modules.pop(name)


def test_the_test_of_runyard_passes(payment: ModuleType) -> None:
    with Yard(payment.defs) as yard:
        payment.test_a_customer_is_asked_after_three_days(yard)


def _output(python: Path | str, *arguments: str) -> str:
    """What Python prints in the folder of these files."""
    done = subprocess.run(
        [python, *arguments],
        cwd=COMPARISON,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HATCHET_CLIENT_TOKEN": _token()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _token() -> str:
    """A token for Hatchet's client, which reads its server's address there and connects later."""
    claims = {
        "sub": _TENANT,
        "server_url": "http://localhost:1",
        "grpc_broadcast_address": "localhost:1",
    }
    parts: list[dict[str, Any]] = [{"alg": "none"}, claims, {}]
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )


@pytest.mark.parametrize("tool", ["inngest", "dagster"])
def test_the_test_of_a_package_that_is_installed_passes(tool: str) -> None:
    assert _output(sys.executable, "run_tests.py", f"{tool}_payment").startswith("test_a_customer")


def test_inngest_is_given_the_options() -> None:
    code = (
        "import inngest_payment\n"
        "config = inngest_payment.take_payment.get_config('http://localhost').main\n"
        "print(config.model_dump_json())"
    )
    config = json.loads(_output(sys.executable, "-c", inspect.cleandoc(code)))
    assert config["concurrency"] == [{"key": "event.data.account", "limit": 1, "scope": None}]
    assert config["steps"]["step"]["retries"] == {"attempts": 4}


def test_dagster_takes_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(_configuration("dagster"), encoding="utf-8")
    with dagster.DagsterInstance.from_config(str(tmp_path)) as instance:
        [limit] = instance.get_concurrency_config().run_queue_config.tag_concurrency_limits
    assert limit == {"key": "account", "limit": 1, "value": {"applyLimitPerUniqueValue": True}}


@pytest.mark.slow
@pytest.mark.parametrize("tool", _PINS)
def test_the_test_of_another_package_passes(tool: str, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", _PINS[tool])
    assert _output(python, "run_tests.py", f"{tool}_payment").startswith("test_a_customer")
    if tool == "hatchet":
        code = (
            "import hatchet_payment as payment\n"
            "from google.protobuf.json_format import MessageToJson\n"
            "payment.hatchet.worker('shop', workflows=[payment.take_payment])\n"
            "print(MessageToJson(payment.take_payment.to_proto()))"
        )
        workflow = json.loads(_output(python, "-c", code))
        assert workflow["eventTriggers"] == ["payment:requested"]
        assert workflow["concurrency"]["expression"] == "input.account"
        [sleep] = workflow["tasks"][2]["conditions"]["sleepConditions"]
        assert sleep["sleepFor"] == "72h"
