"""Loads change nothing: each value is stored as it is in the source, or the load is refused."""

import gzip
import json
import sqlite3
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dlt
import psycopg
import pyarrow as pa
import pytest
from pyarrow import parquet

from resources.sync import loader
from runyard.store import database
from runyard.testing import Yard
from tests.families.syncs import SYNCED, RawApi, files, kinds, load, refusal, rest, table, texts
from tests.tables import rows

pytestmark = [pytest.mark.slow, *SYNCED]


# CSV


def test_fields_stay_as_they_are_written(yard: Yard, declare: Any, folder: Path) -> None:
    (folder / "people.csv").write_text(
        'id,zip,country,manager_id,amount,size\n1,00501,NA,9007199254740993,100000000000000.01,inf\n2,02116,CH,,19.90,""\n'
    )
    declare(files(folder))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {
        "id": "bigint",
        "zip": "text",
        "country": "text",
        "manager_id": "bigint",
        "amount": "numeric",
        "size": "text",
    }
    assert texts() == [
        {
            "id": "1",
            "zip": "00501",
            "country": "NA",
            "manager_id": "9007199254740993",
            "amount": "100000000000000.01",
            "size": "inf",
        },
        {
            "id": "2",
            "zip": "02116",
            "country": "CH",
            "manager_id": None,
            "amount": "19.90",
            "size": "",
        },
    ]


@pytest.mark.parametrize(
    ("delimiter", "called"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "pipe")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "windows-1252"])
def test_delimiter_and_encoding_are_detected_and_reported(
    yard: Yard, declare: Any, folder: Path, delimiter: str, called: str, encoding: str
) -> None:
    lines = [
        ["id", "name", "price"],
        ["1", "Zoë", "10,5" if delimiter != "," else "10.5"],
        ["2", '"a\nb"', ""],
    ]
    text = "\r\n".join(delimiter.join(line) for line in lines) + "\r\n"
    (folder / "people.csv").write_bytes(text.encode(encoding))
    declare(files(folder))
    invocation = load(yard)
    assert [row["name"] for row in texts()] == ["Zoë", "a\nb"]
    assert invocation.output["notes"] == [f"people.csv: {encoding}, {called}, 3 columns"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,name\n1,a\n2,b,c\n", "people.csv, line 3: it has 3 fields, and the header 2"),
        (b'id,name\n1,"a\nb"\n2\n', "people.csv, line 4: it has 1 fields, and the header 2"),
        (b'id,name\n1,"a\n2,b\n', "people.csv, line 3: unexpected end of data"),
        (b'id,name\n1,"a"b\n', "people.csv, line 2: ',' expected after '\"'"),
        (b"id,id\n1,2\n", "two columns have the name 'id'"),
        (b"id,Id\n1,2\n", '"id" and "Id" would both be the column id'),
        (
            b"id,name\n1,a\x00b\n",
            "people.name, people.csv, row 1: PostgreSQL's text cannot hold NUL",
        ),
        (b"a;b,c\n1;2,3\n", "its delimiter may be comma or semicolon: set it"),
        ("id,имя\n1,Анна\n".encode("koi8-r"), "its encoding is not utf-8 or windows-1252"),
        ("id,名前\n1,太郎\n".encode("shift-jis"), "its encoding is not utf-8 or windows-1252"),
        (b"id,_dlt_id\n1,2\n", '"_dlt_id" is a reserved name'),
        (b"id,xmin\n1,2\n", '"xmin" is a reserved name'),
    ],
)
def test_a_file_that_cannot_be_stored_is_rejected_with_its_line(
    yard: Yard, declare: Any, folder: Path, content: bytes, words: str
) -> None:
    (folder / "people.csv").write_bytes(content)
    declare(files(folder))
    assert words in refusal(load(yard))


def test_what_was_not_found_can_be_given(yard: Yard, declare: Any, folder: Path) -> None:
    (folder / "people.csv").write_bytes("id;имя,отчество\n1;Анна,Б\n".encode("koi8-r"))
    declare(
        files(folder, encoding="koi8-r", delimiter="semicolon", rename={"имя,отчество": "name"})
    )
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert texts() == [{"id": "1", "name": "Анна,Б"}]


def test_a_declared_type_is_the_columns_type(yard: Yard, declare: Any, folder: Path) -> None:
    (folder / "people.csv").write_text("id,born,ok,zip,score\n1,2024-02-29,yes,1234,007\n2,,,,\n")
    types = {"born": "date", "ok": "boolean", "zip": "text", "score": "numeric"}
    declare(files(folder, types=types))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {
        "id": "bigint",
        "born": "date",
        "ok": "boolean",
        "zip": "text",
        "score": "numeric",
    }
    assert texts()[0] == {
        "id": "1",
        "born": "2024-02-29",
        "ok": "true",
        "zip": "1234",
        "score": "7",
    }


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("numeric", "NA", "people.v, people.csv, row 2: 'NA' is not a valid numeric"),
        ("bigint", "1.5", "people.v, people.csv, row 2: '1.5' is not a valid bigint"),
        ("date", "2026-02-30", "people.v, row 2: date/time field value out of range"),
        ("interval", "soon", "people.v, row 2: invalid input syntax for type interval"),
    ],
)
def test_a_value_that_is_none_of_its_type_is_refused_with_column_and_row(
    yard: Yard, declare: Any, folder: Path, kind: str, value: str, words: str
) -> None:
    (folder / "people.csv").write_text(f"id,v\n1,\n2,{value}\n")
    declare(files(folder, types={"v": kind}))
    assert words in refusal(load(yard))


def test_files_without_rows_make_tables_and_a_blank_name_is_numbered(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "a.csv").write_text(",name\n")
    (folder / "b.csv").write_text("")
    declare(files(folder))
    invocation = load(yard)
    assert invocation.status == "succeeded", invocation.steps["load"].error
    assert kinds() == {"column_1": "text", "name": "text"}
    assert sorted(invocation.output["notes"]) == ["a.csv: utf-8, comma, 2 columns", "b.csv: empty"]


def test_numbers_become_text_where_text_comes_later(yard: Yard, declare: Any, folder: Path) -> None:
    (folder / "people.csv").write_text("id,zip\n1,10115\n2,10.50\n")
    declare(files(folder, key=["id"]))
    load(yard)
    assert kinds()["zip"] == "numeric"
    (folder / "more.csv").write_text("id,zip\n3,00501\n")
    invocation = load(yard)
    assert invocation.output["changes"] == ["people.zip is text, was numeric"]
    assert [row["zip"] for row in texts()] == ["10115", "10.50", "00501"]


def test_a_very_long_field_and_a_compressed_file_are_read(
    yard: Yard, declare: Any, folder: Path
) -> None:
    long = "x" * (9 << 20)
    (folder / "people.csv.gz").write_bytes(gzip.compress(f'id,v\n1,"{long}"\n2,y\n'.encode()))
    declare(files(folder))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert [len(row["v"] or "") for row in texts()] == [len(long), 1]


# Names


def test_columns_of_every_script_have_columns_of_their_own(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    row = {
        "id": 1,
        "名前": "太郎",
        "住所": "東京",
        "имя": "Анна",
        "дом": "5",
        "हिन्दी": "a",
        "हिन्दा": "b",
        "שם": "c",
        "اسم": "d",
        "é" * 40: "e",
        "é" * 41: "f",
        "userName": "g",
    }
    raw_api.body = json.dumps([row]).encode()
    declare(rest(raw_api))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    [kept] = texts()
    assert sorted(kept.values()) == sorted(str(value) for value in row.values())
    assert {"名前", "住所", "имя", "дом", "user_name"} < kept.keys()


def test_names_that_would_be_one_are_refused_with_both(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = b'[{"id": 1, "price-eur": 10, "price_eur": 20, "priceEur": 30}]'
    declare(rest(raw_api))
    assert '"price-eur" and "price_eur" would both be the column price_eur' in refusal(load(yard))
    declare(rest(raw_api, rename={"price-eur": "dashed", "priceEur": "camel"}))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert texts() == [{"id": "1", "dashed": "10", "price_eur": "20", "camel": "30"}]


# JSON


def test_a_column_of_whole_numbers_widens(yard: Yard, declare: Any, raw_api: RawApi) -> None:
    raw_api.body = b'[{"id": 1, "price": 10}, {"id": 2, "price": 10.5}, {"id": 3, "price": 20}]'
    declare(rest(raw_api))
    load(yard)
    assert kinds() == {"id": "bigint", "price": "numeric"}
    assert [row["price"] for row in texts()] == ["10", "10.5", "20"]


def test_a_column_that_would_widen_later_asks(yard: Yard, declare: Any, raw_api: RawApi) -> None:
    raw_api.body = b'[{"id": 1, "price": 10}]'
    declare(rest(raw_api, changes="ask"))
    load(yard)
    raw_api.body = b'[{"id": 2, "price": 10.5}]'
    assert "people.price is numeric, was bigint" in refusal(load(yard))
    assert load(yard, agree=True).status == "succeeded"
    assert kinds()["price"] == "numeric"
    assert [row["price"] for row in texts()] == ["10", "10.5"]
    raw_api.body = b'[{"id": 3, "price": 9223372036854775808}]'
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [
        ("9007199254740993", "bigint", "9007199254740993"),
        ("18446744073709551615", "numeric", "18446744073709551615"),
        ("-9223372036854775809", "numeric", "-9223372036854775809"),
        ("1" + "0" * 3000, "numeric", "1" + "0" * 3000),
        ("100000000000000.01", "numeric", "100000000000000.01"),
        ("10.10", "numeric", "10.10"),
        ('"00501"', "text", "00501"),
        ('""', "text", ""),
        ('"2026-01-01"', "text", "2026-01-01"),
        ('"2026-01-01T00:00:00"', "text", "2026-01-01T00:00:00"),
        ('"2026-01-01T00:00:00.123456789Z"', "text", "2026-01-01T00:00:00.123456789Z"),
        ('"2026-02-29T00:00:00Z"', "text", "2026-02-29T00:00:00Z"),
        ("true", "boolean", "true"),
        ("NaN", "double precision", "NaN"),
        ("-Infinity", "double precision", "-Infinity"),
        (
            '{"n": 1.10, "big": 18446744073709551616}',
            "jsonb",
            '{"n": 1.10, "big": 18446744073709551616}',
        ),
        ("[1, null]", "jsonb", "[1, null]"),
        ('"\\uf026\\uf027"', "text", "\uf026\uf027"),
    ],
)
def test_json_values_are_stored_exactly(
    yard: Yard, declare: Any, raw_api: RawApi, value: str, kind: str, kept: str
) -> None:
    raw_api.body = f'[{{"id": 1, "v": {value}}}]'.encode()
    declare(rest(raw_api))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds()["v"] == kind
    [row] = rows("SELECT v::text AS v FROM sync_s.people")
    assert row["v"] == kept


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            '[{"id": 1, "v": 1}, {"id": 2, "v": "a"}]',
            "the column v would be bigint (row 1 (id=1)) and text (row 2 (id=2))",
        ),
        (
            '[{"id": 1, "v": "a\\u0000b"}]',
            "people.v, row 1 (id=1): PostgreSQL's text cannot hold NUL",
        ),
        ('[{"id": 1, "v": [NaN]}]', "people.v, row 1 (id=1): Out of range float values"),
        (
            '[{"id": 1, "v": ["\\u0000"]}]',
            "people.v, row 1 (id=1): PostgreSQL's JSON cannot hold NUL",
        ),
        ('[{"id": 1, "v": "\\ud83d"}]', "row 1 (id=1): it contains an unpaired surrogate"),
        ('[{"id": 1, "v": 1e40000}]', "people.v, row 1 (id=1): the number is too large"),
        ('[{"id": 1, "v": 1, "v": 2}]', "the key 'v' occurs twice"),
        ('[{"id": 1, "v": 1' + "0" * 5000 + "}]", "Exceeds the limit"),
        ('[{"name": "a"}]', "people.id, row 1: it is empty, and is the key"),
        ('[{"id": null, "v": 1}]', "people.id, row 1 (id=None): it is empty, and is the key"),
        ('[{"id": 1, " ": 1}]', "a column has the blank name"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_cannot_be_stored_is_rejected_with_column_and_row(
    yard: Yard, declare: Any, raw_api: RawApi, body: str, words: str
) -> None:
    raw_api.body = body.encode()
    declare(rest(raw_api))
    assert words in refusal(load(yard))


def test_mixed_values_are_taken_by_a_declared_type(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = b'[{"id": 1, "v": 1.50, "w": "a"}, {"id": 2, "v": "a", "w": {"b": [true]}}]'
    declare(rest(raw_api, types={"v": "text", "w": "json"}))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert [row["v"] for row in texts()] == ["1.50", "a"]
    assert [row["w"] for row in rows("SELECT w FROM sync_s.people ORDER BY id")] == [
        "a",
        {"b": [True]},
    ]


def test_text_without_a_charset_is_utf_8(yard: Yard, declare: Any, raw_api: RawApi) -> None:
    raw_api.body = '[{"id": 1, "name": "Zoë"}]'.encode()
    raw_api.content_type = "text/plain"
    declare(rest(raw_api))
    load(yard)
    assert texts()[0]["name"] == "Zoë"


@pytest.mark.parametrize("cursor", ["updatedAt", "updated-at", "обновлено"])
def test_a_cursor_of_any_name_has_its_watermark(
    yard: Yard, declare: Any, raw_api: RawApi, cursor: str
) -> None:
    raw_api.body = json.dumps(
        [{"id": 1, cursor: "2026-01-01T00:00:00.5Z"}, {"id": 2, cursor: "2026-01-01T00:00:00Z"}]
    ).encode()
    declare(rest(raw_api, cursor=cursor, cursor_param="since"))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    [load_row] = rows("SELECT watermark FROM app.sync_loads")
    assert load_row["watermark"].isoformat() == "2026-01-01T00:00:00.500000+00:00"
    load(yard)
    since = [parse_qs(urlsplit(path).query).get("since") for _, path, _, _ in raw_api.requests]
    assert since == [None, ["2026-01-01T00:00:00.5Z"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"id": 2, "v": 1}{"id": 3}', "people.jsonl, line 3: Extra data"),
        (b'{"id": 2, "v": "\xff"}', "people.jsonl, line 3: 'utf-8' codec can't decode"),
        (
            b'{"id": 2, "v": "a\\u0000"}',
            "people.v, people.jsonl, line 3, row 2 (id=2): PostgreSQL's text cannot hold NUL",
        ),
    ],
)
def test_a_line_that_cannot_be_stored_is_rejected_with_its_number(
    yard: Yard, declare: Any, folder: Path, line: bytes, words: str
) -> None:
    (folder / "people.jsonl").write_bytes(b'\xef\xbb\xbf{"id": 1, "v": "b"}\n\n' + line + b"\n")
    declare(files(folder, format="jsonl", key=["id"]))
    assert words in refusal(load(yard))


def test_json_lines_are_stored_exactly(yard: Yard, declare: Any, folder: Path) -> None:
    (folder / "people.jsonl").write_bytes(
        b'\xef\xbb\xbf{"id": 1, "n": 18446744073709551616}\n{"id": 2, "n": 0.10}'
    )
    declare(files(folder, format="jsonl"))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert [row["n"] for row in texts()] == ["18446744073709551616", "0.10"]


# Parquet


def test_parquet_columns_are_stored_exactly(yard: Yard, declare: Any, folder: Path) -> None:
    columns = {
        "u64": (pa.uint64(), 2**64 - 1, "numeric", "18446744073709551615"),
        "price": (pa.decimal128(38, 10), Decimal("1.5"), "numeric(38,10)", "1.5000000000"),
        "f32": (pa.float32(), 0.1, "real", "0.1"),
        "nan": (pa.float64(), float("nan"), "double precision", "NaN"),
        "at": (
            pa.timestamp("ns", "Europe/Zurich"),
            datetime(2026, 7, 1, 12),
            "timestamp with time zone",
            "2026-07-01T12:00:00+00:00",
        ),
        "local": (
            pa.timestamp("ms"),
            datetime(2026, 7, 1, 12),
            "timestamp without time zone",
            "2026-07-01T12:00:00",
        ),
        "day": (pa.date32(), date(1, 1, 1), "date", "0001-01-01"),
        "raw": (pa.binary(), b"\x00\xff", "bytea", "\\x00ff"),
        "tags": (pa.list_(pa.string()), ["a", None], "jsonb", '["a", null]'),
        "kind": (pa.dictionary(pa.int8(), pa.string()), "x", "text", "x"),
        "zip": (pa.string(), "00501", "text", "00501"),
        "ok": (pa.bool_(), True, "boolean", "true"),
    }
    arrays = {name: pa.array([value], kind) for name, (kind, value, _, _) in columns.items()}
    parquet.write_table(pa.table(arrays), folder / "people.parquet")
    declare(files(folder, format="parquet"))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {name: kind for name, (_, _, kind, _) in columns.items()}
    assert texts() == [{name: kept for name, (_, _, _, kept) in columns.items()}]


def test_a_nanosecond_of_parquet_is_refused(yard: Yard, declare: Any, folder: Path) -> None:
    at = pa.array([0, 1_000, 1_001], pa.timestamp("ns"))
    parquet.write_table(pa.table({"id": [1, 2, 3], "at": at}), folder / "people.parquet")
    declare(files(folder, format="parquet", key=["id"]))
    assert "people.at, people.parquet, row 3 (id=3): it is finer than a microsecond" in refusal(
        load(yard)
    )


# PostgreSQL


def database_source(**options: Any) -> str:
    source = '[[source]]\nname = "s"\nkind = "sql"\nurl_env = "OTHER_URL"\nschema = "elsewhere"\n'
    return source + table(**options)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    monkeypatch.setenv("OTHER_URL", database.database_url())
    with psycopg.connect(database.database_url(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS elsewhere CASCADE; CREATE SCHEMA elsewhere")
        yield connection


_EXACT = [
    ("numeric", ["47.3768866123", "NaN", "Infinity", "1e300", "0.10"]),
    ("numeric(10,2)", ["NaN", "10.50"]),
    ("double precision", ["NaN", "-Infinity", "0.1", "5e-324"]),
    ("real", ["0.1"]),
    (
        "timestamp with time zone",
        ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "2026-01-01 00:00:00.123456+00"],
    ),
    ("timestamp without time zone", ["infinity", "0044-03-15 12:00:00 BC"]),
    ("timestamp(3) without time zone", ["2026-01-01 00:00:00.123"]),
    ("date", ["0044-03-15 BC", "infinity", "10000-01-01"]),
    ("time without time zone", ["24:00:00"]),
    ("time with time zone", ["12:00:00+05:30"]),
    ("interval", ["3 days", "-1 years -2 mons +3 days 04:05:06.000007"]),
    ("bytea", ["\\x616263", "\\xff00", "\\x"]),
    ("inet", ["203.0.113.7", "2001:db8::/32"]),
    ("macaddr", ["08:00:2b:01:02:03"]),
    ("tstzrange", ['["2026-01-01 00:00:00+00",)', "empty"]),
    ("int4multirange", ["{[1,3),[5,)}"]),
    ("integer[]", ["{1,NULL,3}", "{}", "{{1,2},{3,4}}"]),
    ("text[]", ['{"",NULL,"a,b","\\""}']),
    ("json", ['{"b": 1,  "a": 1.10, "b": 2}']),
    ("jsonb", ['{"a": 1.10}', "null"]),
    ("uuid", ["6f2a1c5e-0000-4000-8000-000000000001"]),
    ("bit varying(5)", ["10101"]),
    ("character(5)", ["ab   "]),
    ("text", ["", "NULL", "\\N", 'a"b\nc,d\r', "\uf026x"]),
    ("boolean", ["true", "false"]),
    ("smallint", ["-32768"]),
    ("point", ["(1.5,2)"]),
    ("tsvector", ["'a':1 'b':2"]),
]


@pytest.mark.parametrize(("kind", "values"), _EXACT)
def test_postgresql_types_are_stored_exactly(
    yard: Yard, declare: Any, elsewhere: Any, kind: str, values: list[str]
) -> None:
    elsewhere.execute(f"CREATE TABLE elsewhere.people (id int PRIMARY KEY, v {kind})")
    for number, value in enumerate([*values, None], 1):
        elsewhere.execute(
            f"INSERT INTO elsewhere.people VALUES (%s, %s::text::{kind})", (number, value)
        )
    declare(database_source(key=["id"]))
    for _ in range(2):
        assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {"id": "integer", "v": kind}
    query = "SELECT id, v::text AS v, v IS NULL AS nothing FROM {}.people ORDER BY id"
    assert rows(query.format("sync_s")) == rows(query.format("elsewhere"))


def test_types_that_are_not_here_are_kept_as_text_or_as_what_they_are_made_of(
    yard: Yard, declare: Any, elsewhere: Any
) -> None:
    elsewhere.execute("CREATE TYPE elsewhere.mood AS ENUM ('sad', 'happy')")
    elsewhere.execute("CREATE DOMAIN elsewhere.cents AS numeric(12,2)")
    elsewhere.execute("CREATE DOMAIN elsewhere.price AS elsewhere.cents CHECK (value >= 0)")
    elsewhere.execute("CREATE TYPE elsewhere.spot AS (x int, label text)")
    elsewhere.execute(
        "CREATE TABLE elsewhere.people (id int, mood elsewhere.mood, moods elsewhere.mood[],"
        ' price elsewhere.price, spot elsewhere.spot, cash money, kind "char", relation regclass)'
    )
    elsewhere.execute(
        "INSERT INTO elsewhere.people"
        " VALUES (1, 'happy', '{sad,NULL}', 1.5, '(1,\"a,b\")', 12.34, 'x', 'pg_class')"
    )
    declare(database_source())
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {
        "id": "integer",
        "mood": "text",
        "moods": "text[]",
        "price": "numeric(12,2)",
        "spot": "text",
        "cash": "numeric",
        "kind": "text",
        "relation": "text",
    }
    [row] = rows(
        "SELECT mood, moods::text, price::text, spot, cash::text, kind, relation FROM sync_s.people"
    )
    assert row == {
        "mood": "happy",
        "moods": "{sad,NULL}",
        "price": "1.50",
        "spot": '(1,"a,b")',
        "cash": "12.34",
        "kind": "x",
        "relation": "pg_class",
    }


def test_an_empty_table_makes_a_table(yard: Yard, declare: Any, elsewhere: Any) -> None:
    elsewhere.execute("CREATE TABLE elsewhere.people (id int PRIMARY KEY, ip inet)")
    declare(database_source(key=["id"]))
    invocation = load(yard)
    assert invocation.output["changes"] == ["new table people (id, ip)"]
    assert kinds() == {"id": "integer", "ip": "inet"}


def test_a_table_that_has_become_empty_is_emptied(yard: Yard, declare: Any, elsewhere: Any) -> None:
    elsewhere.execute("CREATE TABLE elsewhere.people AS SELECT 1 AS id")
    declare(database_source())
    load(yard)
    elsewhere.execute("TRUNCATE elsewhere.people")
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert texts() == []


@pytest.mark.parametrize("kind", ["timestamptz", "timestamp", "date"])
@pytest.mark.parametrize("value", ["infinity", "0044-03-15 BC"])
def test_a_cursor_that_is_not_finite_is_refused_with_its_row(
    yard: Yard, declare: Any, elsewhere: Any, kind: str, value: str
) -> None:
    elsewhere.execute(f'CREATE TABLE elsewhere.people (id int PRIMARY KEY, "updatedAt" {kind})')
    elsewhere.execute("INSERT INTO elsewhere.people VALUES (1, '2026-01-01'), (2, %s)", (value,))
    declare(database_source(key=["id"], cursor="updatedAt"))
    words = refusal(load(yard))
    assert "people.updated_at, row 2 (id=2): " in words
    assert "cannot be the cursor" in words


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("timestamptz", "2026-01-01 00:00:00.000001+00", "2026-01-01 00:00:00.000002+00"),
        ("timestamp", "2026-01-01 00:00:00", "2026-01-02 00:00:00"),
        ("date", "2026-01-01", "2026-01-02"),
        ("bigint", "9", "10"),
        ("numeric", "9", "10"),
        ("numeric(12,3)", "9.500", "10.250"),
        ("text", "a", "b"),
    ],
)
def test_only_what_is_newer_by_a_cursor_of_any_type_is_read(
    yard: Yard, declare: Any, elsewhere: Any, kind: str, old: str, new: str
) -> None:
    elsewhere.execute(
        f'CREATE TABLE elsewhere.people (id int PRIMARY KEY, "updatedAt" {kind}, v text)'
    )
    elsewhere.execute("INSERT INTO elsewhere.people VALUES (1, %s, 'a'), (2, %s, 'a')", (old, old))
    declare(database_source(key=["id"], cursor="updatedAt"))
    assert (invocation := load(yard)).output is not None, invocation.steps["load"].error
    assert invocation.output["rows"] == {"people": 2}
    elsewhere.execute("UPDATE elsewhere.people SET v = 'same moment' WHERE id = 1")
    elsewhere.execute('UPDATE elsewhere.people SET "updatedAt" = %s WHERE id = 2', (new,))
    assert (invocation := load(yard)).output is not None, invocation.steps["load"].error
    assert invocation.output["rows"] == {"people": 2}
    query = "SELECT id, {}::text AS at, v FROM {}.people ORDER BY id"
    assert rows(query.format("updated_at", "sync_s")) == rows(
        query.format('"updatedAt"', "elsewhere")
    )
    watermarks = [
        row["watermark"] is not None for row in rows("SELECT watermark FROM app.sync_loads")
    ]
    assert watermarks == [kind.startswith("timestamp")] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "nothing"}, 'there is no table "elsewhere"."nothing"'),
        ({"columns": ["id", "gone"]}, "there is no column gone"),
        ({"key": ["id"], "cursor": "gone"}, "there is no column gone"),
    ],
)
def test_a_table_or_column_that_is_not_there_is_final(
    yard: Yard, declare: Any, elsewhere: Any, options: dict[str, Any], words: str
) -> None:
    elsewhere.execute("CREATE TABLE elsewhere.people (id int)")
    declare(database_source(**options))
    assert words in refusal(load(yard))


def test_a_table_of_an_earlier_type_is_widened(yard: Yard, declare: Any, elsewhere: Any) -> None:
    elsewhere.execute("CREATE TABLE elsewhere.people (id int, v int)")
    elsewhere.execute("INSERT INTO elsewhere.people VALUES (1, 1)")
    declare(database_source(key=["id"]))
    load(yard)
    elsewhere.execute("ALTER TABLE elsewhere.people ALTER v TYPE numeric(10,2)")
    elsewhere.execute("INSERT INTO elsewhere.people VALUES (2, 2.5)")
    assert load(yard).output["changes"] == ["people.v is numeric, was integer"]
    assert [row["v"] for row in texts()] == ["1.00", "2.50"]


def test_another_kind_of_database_is_stored_exactly(
    yard: Yard, declare: Any, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute(
            "CREATE TABLE people (id INTEGER PRIMARY KEY, zip TEXT, raw BLOB, n REAL, gone TEXT)"
        )
        connection.execute(
            "INSERT INTO people VALUES (9007199254740993, '00501', x'00ff', 0.1, NULL)"
        )
    connection.close()
    declare(
        f'[[source]]\nname = "s"\nkind = "sql"\nurl = "sqlite:///{tmp_path}/other.db"\n'
        + table(key=["id"])
    )
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert texts()[0] == {"id": "9007199254740993", "zip": "00501", "raw": "\\x00ff", "n": "0.1"}


# What follows a load


def test_a_load_is_not_paid_for_again_when_what_follows_cannot_be_done(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = b'[{"id": 1, "address": "a@example.com"}]'
    declare(rest(raw_api).replace('kind = "rest"', 'kind = "rest"\napply = "suppressions"'))
    assert "sync_s.people has no column email" in refusal(load(yard))
    assert len(raw_api.requests) == 1
    assert texts()[0]["address"] == "a@example.com"


def test_a_result_is_so_short_that_it_can_be_kept(
    yard: Yard, declare: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_MOST_SHOWN", 2)
    for number in range(4):
        (folder / f"{number}.csv").write_text("id\n1\n")
    declare(files(folder))
    invocation = load(yard)
    assert invocation.status == "succeeded", invocation.steps["load"].error
    assert invocation.output["notes"][2:] == ["and 2 more"]


def test_tables_of_earlier_loads_keep_their_columns(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    old = dlt.pipeline(
        "runyard_s",
        pipelines_dir=str(loader._folder()),
        destination=dlt.destinations.postgres(
            credentials=loader._credentials(database.database_url())
        ),
        dataset_name="sync_s",
    )
    dlt.config["schema.naming"] = "snake_case"
    row = {"id": 1, "firstName": "Ada", "price": 1.5, "at": "2026-01-01T00:00:00Z", "tags": ["a"]}
    people = dlt.resource([row], name="people", primary_key="id", write_disposition="merge")
    old.run(dlt.source(lambda: people, name="s", max_table_nesting=0)())
    raw_api.body = json.dumps([{**row, "id": 2, "price": 2.25}]).encode()
    declare(rest(raw_api))
    invocation = load(yard)
    assert invocation.status == "succeeded", invocation.steps["load"].error
    assert invocation.output["changes"] == ["people.price is numeric, was double precision"]
    assert [(row["id"], row["price"]) for row in texts()] == [("1", "1.5"), ("2", "2.25")]
    assert list(kinds()) == ["id", "first_name", "price", "at", "tags"]


def test_a_row_that_is_too_wide_for_postgresql_is_final(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = json.dumps([{"id": 1, **{f"c{number}": 1 for number in range(1_200)}}]).encode()
    declare(rest(raw_api))
    assert "row is too big" in refusal(load(yard))


def test_a_database_that_does_not_answer_is_asked_again(
    yard: Yard, declare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    declare(database_source())
    invocation = load(yard)
    assert invocation.status == "queued"
    assert "does not answer" in invocation.steps["load"].error["message"]


def test_an_error_of_the_source_in_the_middle_of_its_rows_is_final(
    yard: Yard, declare: Any, elsewhere: Any
) -> None:
    elsewhere.execute(
        "CREATE VIEW elsewhere.people AS"
        " SELECT n AS id, 1 / (n - 30000) AS v FROM generate_series(1, 40000) AS n"
    )
    declare(database_source())
    assert "division by zero" in refusal(load(yard))


def test_text_of_a_database_without_an_encoding_is_refused_where_it_is_none(
    yard: Yard, declare: Any, elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.execute("DROP DATABASE IF EXISTS ascii")
    elsewhere.execute(
        "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    other = database.database_url().replace("/families", "/ascii")
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("CREATE TABLE people (id int, name text)")
        connection.execute(
            "INSERT INTO people VALUES (1, 'a'), (2, convert_from('\\xe9'::bytea, 'SQL_ASCII'))"
        )
    monkeypatch.setenv("OTHER_URL", other)
    declare(database_source(key=["id"]).replace('schema = "elsewhere"\n', ""))
    assert "people.name, row 2 (id=2): it is not UTF-8" in refusal(load(yard))


def test_a_cursor_whose_order_is_not_known_is_refused(
    yard: Yard, declare: Any, elsewhere: Any
) -> None:
    elsewhere.execute("CREATE TABLE elsewhere.people (id int, ip inet)")
    declare(database_source(key=["id"], cursor="ip"))
    assert "a column of the type inet cannot be the cursor" in refusal(load(yard))


def test_a_declaration_may_call_columns_as_they_are_called_here(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = (
        b'[{"userId": 1, "isGone": false, "v": 1}, {"userId": 2, "isGone": true, "v": 2}]'
    )
    declare(rest(raw_api, key=["user_id"], deleted="is_gone"))
    for _ in range(2):
        assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    raw_api.body = b'[{"userId": 1, "v": "a"}]'
    assert 'types = { "v" = "text" }' in refusal(load(yard))


def test_nothing_is_left_of_a_load_that_was_refused(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = b'[{"id": 1}]'
    declare(rest(raw_api))
    load(yard)
    raw_api.body = b'[{"id": 2, "v": 1, "w": 1}, {"id": 3, "v": "a"}]'
    refusal(load(yard))
    assert texts() == [{"id": "1"}]
    raw_api.body = '\ufeff[{"id": 4}]'.encode()
    raw_api.content_type = "application/json; charset=utf-8"
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {"id": "bigint"}
    assert texts() == [{"id": "1"}, {"id": "4"}]


def test_a_column_that_a_view_holds_is_named_when_it_cannot_widen(
    yard: Yard, declare: Any, raw_api: RawApi
) -> None:
    raw_api.body = b'[{"id": 1, "v": 1}]'
    declare(rest(raw_api))
    load(yard)
    with database.connection() as connection:
        connection.execute("CREATE VIEW sync_s.seen AS SELECT v FROM sync_s.people")
    raw_api.body = b'[{"id": 1, "v": 1.5}]'
    assert (
        '"sync_s"."people".v cannot become numeric: cannot alter type of a column used by a view'
        in refusal(load(yard))
    )
    assert texts() == [{"id": "1", "v": "1"}]


def test_rows_of_nulls_are_rows_and_empty_ones_are_refused(
    yard: Yard, declare: Any, folder: Path
) -> None:
    (folder / "people.jsonl").write_text('{"v": null}\n{"v": null}\n')
    declare(files(folder, format="jsonl"))
    assert (invocation := load(yard)).output["rows"] == {"people": 2}, invocation
    (folder / "people.jsonl").write_text("{}\n")
    assert "people: people.jsonl, line 1, row 1: it is empty" in refusal(load(yard))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (
            pa.array([[b"a"]]),
            "people.v, people.parquet, row 1: a bytes cannot be represented exactly in JSON",
        ),
        (pa.array(["a\x00"]), "people.v, people.parquet, row 1: PostgreSQL's text cannot hold NUL"),
        (
            pa.array([2**40], pa.timestamp("s")),
            "people.v, people.parquet, row 1: its year is before 1, or too large",
        ),
    ],
)
def test_a_parquet_value_that_cannot_be_stored_is_rejected(
    yard: Yard, declare: Any, folder: Path, column: pa.Array, words: str
) -> None:
    parquet.write_table(pa.table({"v": column}), folder / "people.parquet")
    declare(files(folder, format="parquet"))
    assert words in refusal(load(yard))


def test_rows_of_parquet_without_a_value_are_rows(yard: Yard, declare: Any, folder: Path) -> None:
    parquet.write_table(pa.table({"v": pa.nulls(2)}), folder / "people.parquet")
    declare(files(folder, format="parquet"))
    assert (invocation := load(yard)).output["rows"] == {"people": 2}, invocation


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    yield connection
    connection.close()


def sqlite_source(tmp_path: Path, **options: Any) -> str:
    source = f'[[source]]\nname = "s"\nkind = "sql"\nurl = "sqlite:///{tmp_path}/other.db"\n'
    return source + table(**options)


def test_an_empty_table_of_another_kind_of_database_makes_a_table(
    yard: Yard, declare: Any, tmp_path: Path, sqlite: Any
) -> None:
    sqlite.execute(
        "CREATE TABLE people"
        " (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC, born DATE, raw BLOB)"
    )
    declare(sqlite_source(tmp_path, key=["id"]))
    assert (invocation := load(yard)).status == "succeeded", invocation.steps["load"].error
    assert kinds() == {
        "id": "bigint",
        "name": "text",
        "price": "numeric",
        "born": "date",
        "raw": "bytea",
    }


def test_newer_rows_of_another_kind_of_database_are_added(
    yard: Yard, declare: Any, tmp_path: Path, sqlite: Any
) -> None:
    sqlite.execute('CREATE TABLE people (id INTEGER PRIMARY KEY, "changedAt" INTEGER)')
    sqlite.execute("INSERT INTO people VALUES (1, 9), (2, 10)")
    declare(sqlite_source(tmp_path, key=["id"], cursor="changedAt"))
    assert load(yard).output["rows"] == {"people": 2}
    sqlite.execute("UPDATE people SET changedAt = 11 WHERE id = 1")
    assert load(yard).output["rows"] == {"people": 1}
    assert texts() == [{"id": "1", "changed_at": "11"}, {"id": "2", "changed_at": "10"}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "nothing"}, "there is no table nothing"),
        ({"columns": ["id", "gone"]}, "there is no column gone"),
        ({"key": ["id"]}, "the column v would be bigint (row 1 (id=1)) and text (row 2 (id=2))"),
    ],
)
def test_what_another_kind_of_database_cannot_give_is_refused(
    yard: Yard, declare: Any, tmp_path: Path, sqlite: Any, options: dict[str, Any], words: str
) -> None:
    sqlite.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, v)")
    sqlite.execute("INSERT INTO people VALUES (1, 1), (2, 'a')")
    declare(sqlite_source(tmp_path, **options))
    assert words in refusal(load(yard))
