"""Every statement is called by an existing name, with exactly its parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_CALLS = {"fetch_all", "fetch_one"}
FOLDERS = ("runyard", "resources", "pipelines", "assets", "demo", "benchmarks")


def _statements() -> dict[str, set[str]]:
    """The parameters of each statement in runyard/store, by its name."""
    statements = {}
    for path in (ROOT / "runyard" / "store").glob("*.sql"):
        for block in path.read_text(encoding="utf-8").split("-- name: ")[1:]:
            name, _, text = block.partition("\n")
            statements[name.strip()] = set(re.findall(r"%\((\w+)\)s", text))
    return statements


def _calls() -> Iterator[tuple[str, str, set[str], bool]]:
    """For each call: its place, its statement, its parameters, and whether those are all."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                if node.func.id in _CALLS and len(node.args) == 2:
                    keywords = {word.arg for word in node.keywords if word.arg is not None}
                    complete = len(keywords) == len(node.keywords)
                    for name in _names(node.args[1]):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", name, keywords, complete


def _names(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(name)):
            yield name
        case ast.IfExp(body=body, orelse=orelse):
            yield from _names(body)
            yield from _names(orelse)


STATEMENTS = _statements()
CALLS = list(_calls())


def test_calls_are_found() -> None:
    assert len(CALLS) > 80


@pytest.mark.parametrize(("place", "name", "keywords", "complete"), CALLS, ids=lambda value: None)
def test_a_call_gives_a_statement_its_parameters(
    place: str, name: str, keywords: set[str], complete: bool
) -> None:
    assert name in STATEMENTS, place
    missing = STATEMENTS[name] - keywords if complete else set()
    assert (keywords - STATEMENTS[name], missing) == (set(), set()), f"{place}: {name}"


def test_every_statement_is_used() -> None:
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in (*FOLDERS, "tests")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert [name for name in STATEMENTS if f'"{name}"' not in source] == []


def test_lines_of_sql_have_at_most_100_characters() -> None:
    long = [
        f"{path.name}:{number}"
        for path in sorted((ROOT / "runyard" / "store").rglob("*.sql"))
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if len(line) > 100
    ]
    assert long == []
