"""The Python in the documentation is formatted, linted and typed as the project's own."""

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.docs.test_examples import PAGES

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOWN = [ROOT / "README.md", *PAGES]
# Blocks of a page follow each other as one module, with imports where they are needed first.
_RULES = "ARG001,ARG005,E402,I001"


def _run(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


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


def test_examples_are_typed(tmp_path: Path) -> None:
    """Under mypy's strict mode, but for tests, whose fixture `yard` comes without a type."""
    for page in _SHOWN:
        name = page.stem.replace("-", "_").lower()
        (tmp_path / f"example_{name}.py").write_text("\n".join(_blocks(page)), encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nallow_untyped_defs = True\nallow_untyped_calls = True\n"
        "allow_incomplete_defs = True\ndisable_error_code = no-any-return\n"
        f"plugins = pydantic.mypy\nmypy_path = {ROOT}\ncache_dir = {tmp_path / 'cache'}\n"
        "[mypy-runyard.*]\nfollow_imports = silent\n",
        encoding="utf-8",
    )
    files = sorted(tmp_path.glob("*.py"))
    assert _run("mypy", "--config-file", tmp_path / "mypy.ini", *files) == ""
