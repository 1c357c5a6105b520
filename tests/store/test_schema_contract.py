"""Workers of the previous version beside the schema of this one: what they call does not change.

`called_functions.txt` lists every SQL function that the code of a released version calls, with its
signature. A line is only removed when no supported version calls the function any more. A function
whose signature or meaning is to change gets a successor with the next number, and its own line.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import runyard
from runyard.store.queries import statements

CALL = re.compile(r"\brunyard\.(\w+)\(")
CONTRACT = Path(__file__).parent / "called_functions.txt"
PACKAGE = Path(runyard.__file__).parent
# Shows SQL for users to copy, and runs none.
SNIPPETS = PACKAGE / "gateway" / "dev" / "snippets.py"
# The API for applications' own SQL.
PUBLIC = {"cancel", "dismiss", "now", "replay", "run_now", "send"}


def sql_in(module: Path) -> Iterator[str]:
    """The SQL in a module's string literals; prose that names functions is not SQL."""
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


@pytest.fixture(scope="module")
def signatures(store_url: str) -> dict[str, str]:
    """The signature of every function in the schema."""
    query = """
        SELECT proname, format('%s(%s) -> %s', proname, pg_get_function_arguments(oid),
            pg_get_function_result(oid))
        FROM pg_proc WHERE pronamespace = 'runyard'::regnamespace
    """
    with psycopg.connect(store_url) as connection:
        return {str(name): str(signature) for name, signature in connection.execute(query)}


def test_every_function_that_the_code_calls_has_a_version() -> None:
    assert {name for name in called() if not re.search(r"_v[1-9]\d*$", name)} == set()


def test_functions_without_a_version_are_those_for_applications(signatures: dict[str, str]) -> None:
    assert {name for name in signatures if not re.search(r"_v[1-9]\d*$", name)} == PUBLIC


def test_every_function_that_the_code_calls_is_in_the_contract() -> None:
    contract = {line.partition("(")[0] for line in CONTRACT.read_text().splitlines()}
    assert called() - contract == set()


def test_the_schema_still_has_what_released_code_calls(signatures: dict[str, str]) -> None:
    contract = CONTRACT.read_text().splitlines()
    assert [line for line in contract if line not in signatures.values()] == []
