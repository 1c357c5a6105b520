"""The README's function is one file that runs as it stands."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import Definitions

from runyard.functions import registry
from runyard.processes.code_location import load_code
from runyard.settings import settings
from runyard.testing import Yard, empty_event_table
from tests.conftest import ROOT, use_database

README = (ROOT / "README.md").read_text(encoding="utf-8")
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def definitions(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Definitions]:
    """The definitions in a copy of the README's file, loaded as a worker loads them."""
    use_database(server, "readme")
    empty_event_table()
    [code] = _PYTHON.findall(README)
    (tmp_path / "hello.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RUNYARD_CODE", "hello")
    monkeypatch.setattr(registry, "_functions", {})
    settings.cache_clear()
    yield load_code()
    sys.modules.pop("hello")
    monkeypatch.undo()
    settings.cache_clear()


def test_the_function_of_the_readme_runs_as_one_file(definitions: Definitions) -> None:
    with Yard(definitions) as yard:
        sent = yard.send("account/opened", {"name": "Ada"})
        yard.work()
        assert sent.invocation.status == "sleeping"
        yard.advance("10s")
        assert sent.invocation.status == "succeeded"
        assert sent.invocation.output == "Welcome, Ada! How is it going?"


def test_the_readme_names_the_file_where_it_registers_it() -> None:
    assert "Save this as `hello.py`" in README
    assert "export RUNYARD_CODE=hello" in README


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 140
