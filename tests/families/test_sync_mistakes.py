"""Mistakes in a declaration, a folder or the database: they are reported, and empty no table."""

from pathlib import Path
from typing import Any

import pytest

from resources.sync import source_config
from runyard.store import database
from runyard.testing import Yard
from tests.families.syncs import SYNCED, RawApi, files, load, refusal, rest, table, texts

pytestmark = SYNCED


def execute(*statements: str) -> None:
    with database.connection() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def elsewhere(**options: Any) -> str:
    source = '[[source]]\nname = "s"\nkind = "sql"\nurl_env = "OTHER_URL"\nschema = "elsewhere"\n'
    return source + table(**options)


# Missing files


def test_a_pattern_that_matches_no_file_empties_no_table(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "people.csv").write_text("id,v\n1,a\n")
    declare(files(folder, pattern="people*.csv"))
    assert load(yard).status == "succeeded"
    (folder / "people.csv").rename(folder / "persons.csv")
    assert "people: no file matches people*.csv" in refusal(load(yard))
    assert texts() == [{"id": "1", "v": "a"}]


def test_an_emptied_folder_is_not_an_error_for_a_table_with_a_key(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "people.csv").write_text("id,v\n1,a\n")
    declare(files(folder, key=["id"]))
    assert load(yard).status == "succeeded"
    (folder / "people.csv").unlink()
    invocation = load(yard)
    assert invocation.output["notes"] == ["people: no file matches *"]
    assert texts() == [{"id": "1", "v": "a"}]


# Answers that are errors


@pytest.mark.parametrize("body", [b'{"error": {"message": "down"}}', b'{"errors": ["down"]}'])
def test_an_error_with_status_200_does_not_become_a_row(
    yard: Yard, declare: Any, raw_api: RawApi, body: bytes
) -> None:
    raw_api.body = b'[{"id": 1}]'
    declare(rest(raw_api, key=[]))
    assert load(yard).status == "succeeded"
    raw_api.body = body
    assert "/people answers with an error in place of rows" in refusal(load(yard))
    assert texts() == [{"id": "1"}]


def test_an_object_without_an_error_is_a_row(yard: Yard, declare: Any, raw_api: RawApi) -> None:
    raw_api.body = b'{"id": 1, "error": null}'
    declare(rest(raw_api, key=[]))
    assert load(yard).output["rows"] == {"people": 1}


# Tables and columns dropped by hand


def test_a_dropped_table_is_created_and_loaded_again(
    yard: Yard, declare: Any, monkeypatch: pytest.MonkeyPatch, runyard_database: str
) -> None:
    monkeypatch.setenv("OTHER_URL", runyard_database)
    five_days = (
        "SELECT n, '2026-01-01Z'::timestamptz + n * interval '1 day'"
        " FROM generate_series(1, 5) AS n"
    )
    execute(
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.people (id int PRIMARY KEY, at timestamptz)",
        "CREATE TABLE elsewhere.pets (id int PRIMARY KEY, at timestamptz)",
        f"INSERT INTO elsewhere.people {five_days}",
        f"INSERT INTO elsewhere.pets {five_days}",
    )
    declare(elsewhere(key=["id"], cursor="at") + table(name="pets", key=["id"], cursor="at"))
    assert load(yard).output["rows"] == {"people": 5, "pets": 5}
    execute("DROP TABLE sync_s.people")
    invocation = load(yard)
    assert invocation.output["rows"] == {"people": 5, "pets": 0}, invocation
    note = "people: its table was dropped here: the whole table is read again"
    assert invocation.output["notes"] == [note]
    assert len(texts()) == 5
    execute("INSERT INTO elsewhere.people VALUES (6, '2026-02-01Z')")
    assert load(yard).output["rows"] == {"people": 1, "pets": 0}


def test_a_dropped_column_is_created_and_loaded_again(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "people.csv").write_text("id,v\n1,a\n2,b\n")
    declare(files(folder, key=["id"]))
    assert load(yard).output["rows"] == {"people": 2}
    execute("ALTER TABLE sync_s.people DROP COLUMN v")
    invocation = load(yard)
    [note] = invocation.output["notes"][:1]
    assert note == "people: its column v was dropped here: the whole table is read again"
    assert [row["v"] for row in texts()] == ["a", "b"]


def test_tables_that_were_dropped_with_those_of_their_staging_are_made_again(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "people.csv").write_text("id,v\n1,a\n")
    declare(files(folder, key=["id"]))
    assert load(yard).status == "succeeded"
    execute("DROP TABLE sync_s.people", "DROP TABLE sync_s_staging.people")
    assert load(yard).output["rows"] == {"people": 1}
    assert texts() == [{"id": "1", "v": "a"}]


# Names in a declaration


@pytest.mark.parametrize(
    "option",
    [
        'types = { vv = "text" }',
        'rename = { vv = "w" }',
        'key = ["id"]\ncursor = "vv"',
        'key = ["id"]\ndeleted = "vv"',
    ],
)
def test_a_column_that_only_the_declaration_has_is_refused(
    yard: Yard, declare: Any, folder: Path, option: str
) -> None:
    (folder / "people.csv").write_text("id,v\n1,a\n")
    declare(files(folder) + option + "\n")
    assert 'names the column "vv", which does not exist; there are "id", "v"' in refusal(load(yard))


def test_of_json_a_column_that_only_the_declaration_has_is_noted(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = b'[{"id": 1}]'
    declare(rest(raw_api) + 'deleted = "gone_at"\n')
    invocation = load(yard)
    assert invocation.output["notes"] == [
        'people: deleted names the column "gone_at", which no row has'
    ]


def test_a_column_that_an_earlier_file_had_is_not_missed(
    yard: Yard, declare: Any, folder: Path
) -> None:
    declare(files(folder, key=["id"]) + 'types = { v = "text" }\n')
    (folder / "a.csv").write_text("id,v\n1,a\n")
    assert load(yard).status == "succeeded"
    (folder / "b.csv").write_text("id\n2\n")
    assert load(yard).status == "succeeded"


def test_two_tables_of_one_name_are_refused_when_the_code_loads(declare: Any, folder: Path) -> None:
    declare(files(folder) + table(pattern="*"))
    with pytest.raises(source_config.SyncMisdeclared, match="two tables have the name people"):
        source_config.sources()


def test_a_table_may_have_another_name_in_its_database(
    yard: Yard, declare: Any, monkeypatch: pytest.MonkeyPatch, runyard_database: str
) -> None:
    monkeypatch.setenv("OTHER_URL", runyard_database)
    execute(
        "CREATE SCHEMA elsewhere",
        'CREATE TABLE elsewhere."Person" (id int PRIMARY KEY)',
        'INSERT INTO elsewhere."Person" VALUES (1)',
    )
    declare(elsewhere(name_in_source="Person"))
    assert load(yard).output["rows"] == {"people": 1}
    assert texts() == [{"id": "1"}]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("user=nobody_here", 'role "nobody_here" does not exist'),
        ("dbname=nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_a_database_that_rejects_the_login_is_not_retried(
    yard: Yard,
    declare: Any,
    monkeypatch: pytest.MonkeyPatch,
    runyard_database: str,
    part: str,
    words: str,
) -> None:
    url = runyard_database + ("&" if "?" in runyard_database else "?") + part
    monkeypatch.setenv("OTHER_URL", url)
    declare(elsewhere())
    assert words in refusal(load(yard))
