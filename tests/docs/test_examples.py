"""Runs every example in the documentation: loads its code and runs its tests, nothing added."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runyard import EventFunction, definitions
from runyard.authoring.definitions import Part
from runyard.dagster_adapter.sensors import FunctionSensor
from runyard.functions import registry
from runyard.testing import Yard, empty_event_table
from tests.conftest import ROOT, use_database
from tests.docs import pages

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def documented(server: str) -> str:
    """The URL of a database for the examples."""
    return use_database(server, "docs")


@pytest.fixture
def example(
    page: Path, documented: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The names that a page's code defines."""
    monkeypatch.setattr(registry, "_functions", {})
    module = ModuleType(f"example_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code = "\n".join(_BLOCK.findall(page.read_text(encoding="utf-8")))
    exec(compile(code, str(page), "exec"), vars(module))
    return vars(module)


def _functions(names: dict[str, Any]) -> list[Part]:
    found = [value for value in names.values() if isinstance(value, EventFunction | FunctionSensor)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", pages.WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_example_of_a_page_passes_its_own_tests(page: Path, example: dict[str, Any]) -> None:
    tests = {name: value for name, value in example.items() if name.startswith("test_")}
    assert tests, f"{page.name} has an example without a test"
    defs = example.get("defs") or definitions(*_functions(example))
    for test in tests.values():
        empty_event_table()
        with Yard(defs) as yard:
            test(*[yard for _ in inspect.signature(test).parameters])


@pytest.mark.parametrize("page", pages.FEATURES, ids=lambda page: page.stem)
def test_a_page_has_the_standard_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [
        heading
        for heading in ("## Example", "## In the Dagster UI", "## Compared with Inngest")
        if heading not in text
    ] == []


def test_every_feature_has_a_page() -> None:
    from runyard import Batch, Run, on_event
    from runyard.authoring.step import StepOptions

    pages = {
        "map": "map",
        "map_batch": "map",
        "map_each": "map",
        "each": "map",
        "size": "map",
        "tasks": "map",
        "op": "map",
        "threads": "map",
        "checkpoint_every": "map",
        "when": "map",
        "timeout": "map",
        "sleep": "sleep",
        "sleep_until": "sleep",
        "wait_for_event": "wait-for-event",
        "invoke": "invoke",
        "send_events": "send-events",
        "join": "parallel",
        "parallel": "parallel",
        "filter": "triggers",
        "cron": "cron",
        "retry": "retries",
        "priority": "priority",
        "concurrency": "concurrency",
        "throttle": "throttle",
        "rate_limit": "rate-limit",
        "idempotency": "idempotency",
        "debounce": "debounce",
        "batch": "batch",
        "singleton": "singleton",
        "timeouts": "timeouts",
        "cancel_on": "cancel-on",
        "on_failure": "callbacks",
        "on_success": "callbacks",
        "max_batch": "batch",
    }
    plumbing = {
        "fail",
        "suspend",
        "active_items",
        "function",
        "events",
        "job",
        "name",
        "description",
        "add",
        "drawing",
    }
    steps = {
        name
        for name, value in [*vars(Batch).items(), *vars(Run).items()]
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }
    options = set(inspect.signature(on_event).parameters) | set(StepOptions.__annotations__)
    features = (steps | options) - plumbing
    assert features - set(pages) == set()
    pages["progress"] = "progress"  # a method of Item
    for feature, page in pages.items():
        assert feature in (ROOT / "docs" / "features" / f"{page}.md").read_text(encoding="utf-8"), (
            f"docs/features/{page}.md does not mention {feature}"
        )
