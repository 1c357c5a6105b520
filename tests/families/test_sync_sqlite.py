"""Numbers, booleans and JSON in SQLite, which allows any value in any column."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runyard.testing import Yard
from tests.families.syncs import kinds, load, refusal, table, texts

pytestmark = [pytest.mark.usefixtures("no_synced_tables"), pytest.mark.filterwarnings("ignore")]


_TIMESTAMP = "the column v would be timestamp without time zone"


def test_numbers_of_sqlite_keep_their_digits(yard: Yard, declare: Any, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute(
            "CREATE TABLE people (id integer primary key, price decimal(10,2), weight numeric,"
            " ok boolean, more json)"
        )
        other.execute(
            "INSERT INTO people VALUES"
            """ (1, 1.239, 0.1234567890123, 1, '{"a": 1.10, "b": 12345678901234567890.5}'),"""
            " (2, 1e-12, 12345678901234567, 0, NULL)"
        )
    declare(
        f'[[source]]\nname = "s"\nkind = "sql"\nurl = "sqlite:///{tmp_path}/other.db"\n' + table()
    )
    invocation = load(yard)
    assert invocation.status == "succeeded", invocation.steps["load"].error
    assert {k: v for k, v in kinds().items() if k != "id"} == {
        "price": "numeric",
        "weight": "numeric",
        "ok": "boolean",
        "more": "jsonb",
    }
    assert [(r["price"], r["weight"], r["ok"], r["more"]) for r in texts()] == [
        ("1.239", "0.1234567890123", "true", '{"a": 1.10, "b": 12345678901234567890.5}'),
        ("0.000000000001", "12345678901234567", "false", None),
    ]


def test_a_boolean_of_sqlite_that_is_none_is_refused(
    yard: Yard, declare: Any, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE people (id integer primary key, ok boolean)")
        other.execute("INSERT INTO people VALUES (1, 1), (2, 2)")
    declare(
        f'[[source]]\nname = "s"\nkind = "sql"\nurl = "sqlite:///{tmp_path}/other.db"\n' + table()
    )
    assert "the column ok would be boolean (row 1) and bigint (row 2)" in refusal(load(yard))


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (
            "datetime",
            1_700_000_000,
            f"{_TIMESTAMP} (row 1 (id=1)) and bigint (row 2 (id=2))",
        ),
        (
            "datetime",
            "",
            f"{_TIMESTAMP} (row 1 (id=1)) and text (row 2 (id=2))",
        ),
        ("date", "1.2.2024", _TIMESTAMP),
        ("json", "{bad", "the column v would be jsonb"),
    ],
)
def test_a_value_of_sqlite_that_is_none_of_its_type_is_refused_by_its_place(
    yard: Yard, declare: Any, tmp_path: Path, kind: str, value: object, words: str
) -> None:
    first = (
        '{"a": 1}'
        if kind == "json"
        else "2024-01-01 00:00:00"
        if kind == "datetime"
        else "2024-01-01"
    )
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute(f"CREATE TABLE people (id integer primary key, v {kind})")
        other.execute("INSERT INTO people VALUES (1, ?), (2, ?)", (first, value))
    source = f'[[source]]\nname = "s"\nkind = "sql"\nurl = "sqlite:///{tmp_path}/other.db"\n'
    declare(source + table(key=["id"]))
    assert words.replace(
        "timestamp without time zone", "date" if kind == "date" else "timestamp without time zone"
    ) in refusal(load(yard))
    declare(source + table(key=["id"], types={"v": "text"}))
    assert load(yard).status == "succeeded"
    assert [row["v"] for row in texts()] == [first, str(value)]
