"""The modules and names of Python that the documentation mentions exist."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs import pages

_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
_PACKAGES = r"(?:runyard|resources|pipelines|sensors|schedules|assets|benchmarks)"
_NAME = re.compile(rf"(?<![\w./-])({_PACKAGES}(?:\.[A-Za-z_]\w*)+)(?!\w*[*-])")
_IMPORT = re.compile(rf"from ({_PACKAGES}[\w.]*) import ([\w, ]+)")
# Schema-qualified tables and functions of the database, and a setting of a transaction.
_SQL = set(
    re.findall(
        r"\brunyard\.\w+",
        "".join(
            path.read_text(encoding="utf-8") for path in (ROOT / "runyard" / "store").rglob("*.sql")
        ),
    )
)


def _names(page: Path) -> Iterator[str]:
    """Every dotted name of the project in inline code and in Python blocks."""
    text = page.read_text(encoding="utf-8")
    blocks = _PYTHON.findall(text)
    for code in [*_CODE.findall(_FENCE.sub("", text)), *blocks]:
        yield from _NAME.findall(code)
    for block in blocks:
        for module, names in _IMPORT.findall(block):
            yield from (f"{module}.{name.strip()}" for name in names.split(",") if name.strip())


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def _is_a_file(name: str) -> bool:
    """Whether it is rather the name of a file, such as `definitions.py`."""
    return name.rpartition(".")[2] in {"py", "sql", "md", "toml", "yaml", "html", "txt", "target"}


@pytest.mark.parametrize("page", pages.ALL, ids=lambda page: page.stem)
def test_the_names_of_a_page_exist(page: Path) -> None:
    names = {name for name in _names(page) if name not in _SQL and not _is_a_file(name)}
    assert sorted(name for name in names if not _exists(name)) == []


def test_names_are_found_at_all() -> None:
    assert "runyard.gateway.dev.page.Visit" in set(_names(ROOT / "docs" / "dev-page.md"))
    assert not _exists("runyard.engine.nothing")
    assert not _exists("runyard.nothing.at_all")
