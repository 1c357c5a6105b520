"""Expressions over events, evaluated by PostgreSQL."""

import json
from typing import Any

import pytest

from runyard.store import database
from runyard.syntax.expressions import parse_expression
from tests.expressions import EVENT, FAILED, OTHER, VALUES


def evaluated(text: str) -> Any:
    tree = json.dumps(parse_expression(text, "if"))
    scope = json.dumps({"event": EVENT, "async": OTHER})
    with database.connection() as connection:
        row = connection.execute(
            "SELECT runyard.cel_v1(%s, %s)::text AS value", [tree, scope]
        ).fetchone()
    assert row is not None
    return FAILED if row["value"] is None else json.loads(row["value"])


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text for text, _ in VALUES])
def test_postgresql_comes_to_the_same_value(text: str, value: Any) -> None:
    assert evaluated(text) == value
