"""docs/upgrading.md lists every migration of the engine with what it needs, and every exit code."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from runyard.cli.migrate import UNREACHABLE
from runyard.processes.pending import Verdict
from runyard.processes.schema_check import ENGINE
from runyard.store.migration_needs import KINDS, needs_of
from runyard.store.schema_state import engine_revisions
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")


def rows_under(heading: str) -> list[list[str]]:
    """The rows of the table with this first column, without its heading."""
    table = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table[1].splitlines()]


@pytest.mark.parametrize("revision", engine_revisions())
def test_every_migration_of_the_engine_says_what_it_needs(revision: str) -> None:
    assert needs_of(ENGINE.scripts().get_revision(revision).module) is not None


def test_the_page_lists_every_migration_with_what_it_needs() -> None:
    expected = []
    for script in reversed(list(ENGINE.scripts().walk_revisions())):
        needs = needs_of(script.module)
        assert needs is not None
        tables = ", ".join(f"`{table}`" for table in needs.tables) or "none"
        expected.append([f"`{script.revision}`", needs.kind, tables, f"`{needs.oldest_code}`"])
    assert rows_under("migration") == expected


def test_the_page_explains_every_kind() -> None:
    assert rows_under("kind") == [[kind, meaning] for kind, meaning in KINDS.items()]


def test_the_page_has_every_exit_code_of_the_check() -> None:
    error = 1
    expected = sorted([*Verdict, error, UNREACHABLE])
    assert [int(code) for code, _ in rows_under("exit code")] == expected


def test_the_upgrade_of_dagster_stays_within_the_bounds_of_runyard() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(each) for each in project["dependencies"]]
    expected = {
        f"{each.name}<{bound.version}"
        for each in requirements
        for bound in each.specifier
        if each.name.startswith("dagster") and bound.operator == "<"
    }
    [command] = re.findall(r"^pip install --upgrade (\"dagster<(?:\\\n|.)*)$", PAGE, re.MULTILINE)
    assert set(re.findall(r'"(.+?)"', command)) == expected
