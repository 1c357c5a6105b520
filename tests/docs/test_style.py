"""Lines of prose are bounded, and Python in the documentation is held to the rules of our own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs import pages

_WIDTH = 100
_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = [ROOT / "README.md", ROOT / "docs" / "events.md", *pages.WITH_EXAMPLES]
# Blocks of a page follow each other as one module, with imports where they are needed first.
_RULES = "ARG001,ARG005,E402,I001"
_LONG_FORM = re.compile(r"\b(?:receive|settle|on_event|in_process_executor)\b|@(?:op|job)\b")
_MISTAKE = """
from runyard import Item, Run, function, step

@step
def greet(item: Item) -> str:
    return "Hello"

@function("account/opened")
def welcome(run: Run) -> None:
    print(len(greet(run)))
"""


def _is_prose(line: str) -> bool:
    """Whether a line could be broken: it is no row of a table, and more than a link."""
    return not line.lstrip().startswith("|") and " " in line.strip().removeprefix("- ")


def _long_lines(page: Path) -> list[str]:
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [line for line in prose.splitlines() if len(line) > _WIDTH and _is_prose(line)]


@pytest.mark.parametrize("page", pages.ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_has_lines_of_at_most_100_characters(page: Path) -> None:
    assert _long_lines(page) == []


def _run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("page", pages.WITH_EXAMPLES, ids=lambda page: page.stem)
def test_examples_are_in_the_light_form(page: Path) -> None:
    shown = _LONG_FORM.findall("".join(_blocks(page)))
    assert bool(shown) == (page == ROOT / "docs" / "dagster.md")


def _blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def test_examples_are_formatted(tmp_path: Path) -> None:
    for page in _SHOWN:
        for number, block in enumerate(_blocks(page), 1):
            (tmp_path / f"{page.stem}_{number}.py").write_text(block, encoding="utf-8")
    assert _run("ruff", "format", "--check", "--diff", "--config", "pyproject.toml", tmp_path) == ""


def test_examples_have_no_lint(tmp_path: Path) -> None:
    for page in _SHOWN:
        (tmp_path / f"{page.stem}.py").write_text("\n".join(_blocks(page)), encoding="utf-8")
    options = ("--config", "pyproject.toml", "--ignore", _RULES, "--output-format", "concise")
    assert _run("ruff", "check", "-q", *options, tmp_path) == ""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What mypy says of the examples in its strict mode, and of a step taken for its result.

    Tests have no annotations, and data without a type is `Any`.
    """
    folder = tmp_path_factory.mktemp("typed")
    for page in _SHOWN:
        name = page.stem.replace("-", "_").lower()
        (folder / f"example_{name}.py").write_text("\n".join(_blocks(page)), encoding="utf-8")
    (folder / "mistake.py").write_text(_MISTAKE, encoding="utf-8")
    (folder / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nallow_untyped_defs = True\nallow_untyped_calls = True\n"
        "allow_incomplete_defs = True\ndisable_error_code = no-any-return\n"
        f"plugins = pydantic.mypy\nmypy_path = {ROOT}\ncache_dir = {folder / 'cache'}\n"
        "[mypy-runyard.*]\nfollow_imports = silent\n",
        encoding="utf-8",
    )
    return _run("mypy", "--config-file", folder / "mypy.ini", *sorted(folder.glob("*.py")))


def test_examples_are_typed(mypy: str) -> None:
    assert [line for line in mypy.splitlines() if "example_" in line] == []


def test_a_step_in_a_body_has_no_value_for_mypy(mypy: str) -> None:
    [mistake] = [line for line in mypy.splitlines() if "mistake.py" in line]
    assert mistake.endswith("[arg-type]")
