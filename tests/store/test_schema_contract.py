"""Workers of the previous version run on this version's schema: what they use does not change.

`released.txt` of the schema lists what the code of a released version uses: the columns of the
tables, and the SQL functions that it calls with their signatures. Below the name of a version is
what came with it. A line is only removed when no supported version needs it any more. A function
whose signature or meaning is to change gets a successor with the next number, and its own line.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import runyard
from runyard.store.queries import statements

CALL = re.compile(r"\brunyard\.(\w+)\(")
VERSIONED = re.compile(r"\w+_v[1-9]\d*")
PACKAGE = Path(runyard.__file__).parent
LINES = (PACKAGE / "store" / "schema" / "released.txt").read_text(encoding="utf-8").splitlines()
RELEASED = [line for line in LINES if not line.startswith("#")]
# Contains SQL for users to copy, and runs none of it.
SNIPPETS = PACKAGE / "gateway" / "dev" / "snippets.py"
# The API for applications' own SQL.
PUBLIC = {"cancel", "dismiss", "now", "replay", "run_now", "send"}


def sql_in(module: Path) -> Iterator[str]:
    """The SQL in a module's string literals, without prose that mentions functions."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        text = node.value if isinstance(node, ast.Constant) else None
        text = text.decode(errors="ignore") if isinstance(text, bytes) else text
        if isinstance(text, str) and re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b", text):
            yield text


def called() -> set[str]:
    """The SQL functions that the engine's code calls."""
    queries = [statement.decode() for statement in statements().values()]
    modules = [text for path in PACKAGE.rglob("*.py") if path != SNIPPETS for text in sql_in(path)]
    return {name for text in [*queries, *modules] for name in CALL.findall(text)}


def select(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def signatures(store_url: str) -> dict[str, str]:
    """The signature of every function in the schema."""
    query = """
        SELECT proname, format('%s(%s) -> %s', proname, pg_get_function_arguments(oid),
            pg_get_function_result(oid))
        FROM pg_proc WHERE pronamespace = 'runyard'::regnamespace
    """
    return dict(select(store_url, query))


@pytest.fixture(scope="module")
def columns(store_url: str) -> dict[str, bool]:
    """Every column with its type, and whether an INSERT may leave it out."""
    query = """
        SELECT format('%s.%s %s', table_name, column_name, udt_name),
            is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES'
                OR is_generated = 'ALWAYS'
        FROM information_schema.columns
        WHERE table_schema = 'runyard' AND table_name <> 'alembic_version'
    """
    return dict(select(store_url, query))


def test_every_function_that_the_code_calls_has_a_version() -> None:
    assert {name for name in called() if not VERSIONED.fullmatch(name)} == set()


def test_functions_without_a_version_are_those_for_applications(signatures: dict[str, str]) -> None:
    assert {name for name in signatures if not VERSIONED.fullmatch(name)} == PUBLIC


def test_every_function_that_the_code_calls_is_in_the_contract() -> None:
    assert called() - {line.partition("(")[0] for line in RELEASED} == set()


def test_the_schema_still_has_what_released_code_uses(
    signatures: dict[str, str], columns: dict[str, bool]
) -> None:
    present = {*signatures.values(), *columns}
    assert [line for line in RELEASED if line not in present] == []


def test_every_column_is_in_the_contract(columns: dict[str, bool]) -> None:
    assert set(columns) - set(RELEASED) == set()


def test_released_code_can_insert_rows_without_newer_columns(columns: dict[str, bool]) -> None:
    _, *later = "\n".join(LINES).removeprefix("# ").split("\n# ")
    newer = {line for version in later for line in version.splitlines()}
    assert {column for column in newer if not columns.get(column, True)} == set()
