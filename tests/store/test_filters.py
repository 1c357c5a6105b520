"""The check of filters at import agrees with PostgreSQL about SQL/JSON path.

It accepts no filter that PostgreSQL would reject for its size.
"""

import random
from bisect import bisect_left
from collections.abc import Callable

import psycopg
import pytest

from runyard.client import send
from runyard.errors import InvalidOption
from runyard.events import Event
from runyard.functions.registry import Function
from runyard.functions.triggers import Trigger
from runyard.store import database
from runyard.syntax.jsonpath import MAX_FILTER_LENGTH, check_filter
from tests.conftest import Publish

SEEDS = [
    '$.data.total > 100 && $.data.country == "CH"',
    "$.data.items[*].price > 10",
    "$.data ? (@.a > 1 && exists(@.b))",
    "($.a + 1) * 2 >= 3 || !($.b == null)",
    '$.data.name like_regex "^a.*z$" flag "i"',
    '$.data.name starts with "x"',
    "strict $.data.a[0 to last].b.size() > 2",
    "(($.a == 1) is unknown)",
    "-$.a.abs() < 3.5e2",
    '$."odd name".type() == "string"',
    "lax $.**{1 to 3}.x == true",
    "$.a[last - 1, 0] != $.b",
    "$.a.decimal(10, 2) > 1",
    '$.d.datetime("YYYY-MM-DD") < $.e.datetime()',
    '$.a STARTS WITH "x" && EXISTS($.b)',
    "$.a.SIZE() == 1",
    '$.a like_regex "a" flag "xq"',
    '($.a == 1).type() == "boolean"',
    "$[0 ? (@ > last)]",
    "1.5.a",
    '(2).type() == "number"',
    "$.a[1, 2 to 3].decimal(-1, +2) > .5",
    "$.a.time(3) < $.b.date()",
    '"\\ud83d\\ude00" == $.a',
    "/* all */ $.a /* of it */ == 1_000",
    "$",
    "1",
    '"x"',
    "true",
    "$.a == $.b",
    "$.a.b.c",
    "$.*",
    "$[*]",
    "exists($.a)",
    "!exists($.a)",
    "$.a % 2 == 0",
    "$ ? (@ > 1) ? (@ < 5)",
]
WORDS = [
    "&&",
    "||",
    "!",
    "(",
    ")",
    "exists(",
    ") is unknown",
    " starts with ",
    " like_regex ",
    '"x"',
    "==",
    "@",
    "last",
    " to ",
    "[",
    "]",
    "[*]",
    ".a",
    ".size()",
    "?(",
    "{",
    "}",
    "**",
    ".**",
    ".5",
    "1.5",
    "-",
    "+",
    "/*",
    "*/",
    "\\u",
    "strict ",
    ' flag "i"',
    "true",
    "TRUE",
    ",",
    "e5",
    "0x1F",
    ".decimal(",
    "null == null",
    "/**/",
    "\u00a0",
]
# Rejected by the check alone: PostgreSQL accepts these, but they match nothing or mean something
# other than they seem to.
NARROWER = (
    "has no variables",
    "a comment after a word",
    "a backslash has a meaning only",
    "too large or too small",
)


def _postgres_takes(text: str) -> bool:
    """Whether its grammar accepts a filter; regular expressions have a grammar of their own."""
    with database.connection() as connection:
        try:
            row = connection.execute(
                "SELECT sql_error_code AS code FROM pg_input_error_info(%s, 'jsonpath')", (text,)
            ).fetchone()
        except psycopg.DataError:
            return False
    assert row is not None
    return row["code"] in (None, "2201B")


def _problem(text: str) -> str:
    try:
        check_filter(text, "filter")
    except InvalidOption as error:
        assert "at character" in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize("text", SEEDS)
def test_what_is_right_is_taken(store_url: str, text: str) -> None:
    assert (_postgres_takes(text), _problem(text)) == (True, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TRUE",
        "$.**{1.5}",
        "$.**{99999999999}",
        "$.a.decimal(10,)",
        "$.a.time(1.5)",
        "$.a ==\u00a01",
        '"\\u0000"',
        '"\\x00"',
        '"\\ud800"',
        '"\\ud83dx\\ude00"',
        '"\\u{110000}"',
        "exists($.a) is unknown",
        "!($.a == 1) is unknown",
        "!exists($.a).b",
        '$.a like_regex "a" flag "x"',
        "$ /* open",
        "1.a",
        "2.type()",
        "($.a == 1) == ($.b == 1)",
        "-($.a == 1)",
        "$ ? ($.a)",
        "1 == 1 && (2)",
        "$.a[1 to 2 to 3]",
        "$.a[*, 1]",
        "$.a.datetime(1)",
        "1 == 2 == 3",
        "$.a[1 == 1]",
        "exists($.a == 1)",
        "1 + (1 == 1)",
        "$.a starts with $.b",
    ],
)
def test_what_is_wrong_is_refused(store_url: str, text: str) -> None:
    assert (_postgres_takes(text), _problem(text) == "") == (False, False)


def _changed(dice: random.Random, text: str) -> str:
    """A text with a part removed, inserted, capitalized, bracketed or joined to another."""
    place, action = dice.randrange(len(text) + 1), dice.random()
    if action < 0.25:
        return text[:place] + text[place + dice.randint(1, 4) :]
    if action < 0.45:
        return text[:place] + dice.choice(WORDS) + text[place:]
    if action < 0.7:
        return text[:place] + dice.choice("$@.()[]?!&|=<>\"'+-*/%, aex10{}_\\") + text[place:]
    if action < 0.8:
        return text[:place] + text[place : place + 5].swapcase() + text[place + 5 :]
    return (
        f"({text})"
        if action < 0.9
        else text + dice.choice([" && ", " || ", " == ", " + "]) + dice.choice(SEEDS)
    )


@pytest.mark.parametrize("seed", [7, 8])
def test_whatever_is_cut_swapped_or_doubled_is_judged_alike(store_url: str, seed: int) -> None:
    """PostgreSQL and the check agree on thousands of broken filters.

    Where they did not, a filter would load and then fail.
    """
    dice = random.Random(seed)
    wrong: list[tuple[str, str]] = []
    for _ in range(3000):
        text = dice.choice(SEEDS)
        for _ in range(dice.randint(1, 3)):
            text = _changed(dice, text)
        problem = _problem(text)
        if _postgres_takes(text) != (problem == "") and not any(
            narrower in problem for narrower in NARROWER
        ):
            wrong.append((text, problem))
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("$.data.total >", 15),
        ("$.a & 1", 5),
        ('$.a == "x', 8),
        ("$.data.x == @.y", 13),
        ("$.a.foo() > 1", 5),
        ("total > 100", 1),
        ("($.a == 1", 10),
        ("$.a == $b", 8),
        ("1 == 1 && $.b", 14),
        ("$.a[last].b == last", 16),
        ('$.a == "\\u00"', 8),
        ("/* $.a", 1),
    ],
)
def test_an_error_says_where(text: str, position: int) -> None:
    with pytest.raises(InvalidOption, match=f"at character {position}:"):
        check_filter(text, "filter")


def test_a_long_filter_is_shown_near_its_mistake_only() -> None:
    with pytest.raises(InvalidOption) as refused:
        check_filter("1 == 1 && " * 300 + "oh no", "filter")
    assert len(str(refused.value)) < 500


def test_a_variable_is_refused_for_it_has_no_value() -> None:
    for text in ("$.a == $limit", '$.a == $"limit"', "$.a starts with $beginning"):
        with pytest.raises(InvalidOption, match="no variables"):
            check_filter(text, "filter")


# Each grows with its number in its own way: deeper, longer or wider.
GROWING: dict[str, Callable[[int], str]] = {
    "conditions": lambda n: "&&".join(["1==1"] * n),
    "alternatives": lambda n: "||".join(["1==2"] * n),
    "sums": lambda n: "+".join(["1"] * n),
    "signs": lambda n: "-" * n + "1",
    "members": lambda n: "$" + ".a" * n,
    "elements": lambda n: "$" + "[0]" * n,
    "filters": lambda n: "$" + "?(1==1)" * n,
    "methods": lambda n: "$" + ".type()" * n,
    "subscripts": lambda n: f"$[{'0,' * n}0]",
    "brackets": lambda n: "(" * n + "1" + ")" * n,
    "conditions in brackets": lambda n: "(" * n + "1==1" + ")" * n,
    "negations": lambda n: "!(" * n + "1==1" + ")" * n,
    "unknowns": lambda n: "(" * n + "1==1" + ") is unknown" * n,
    "filters in filters": lambda n: "exists($?(" * n + "1==1" + "))" * n,
    "subscripts in subscripts": lambda n: "$[" * n + "0" + "]" * n,
}


@pytest.mark.parametrize("kind", GROWING)
def test_what_passes_is_taken_by_postgres_and_what_is_larger_is_refused_here(
    store_url: str, kind: str
) -> None:
    """The largest accepted filter of each kind can be parsed, printed and evaluated.

    The document is nested as deeply as the filter.
    """
    sizes = range(1, MAX_FILTER_LENGTH)
    largest = bisect_left(sizes, True, key=lambda size: not _passes(GROWING[kind](size)))
    text = GROWING[kind](largest)
    assert 10 < largest < len(sizes)
    with database.connection() as connection:
        row = connection.execute(
            "SELECT length(%(filter)s::jsonpath::text) AS length,"
            " runyard.filter_matches_v1(%(document)s::jsonb, %(filter)s::jsonpath) AS passes",
            {"filter": text, "document": '{"a":' * 2000 + "1" + "}" * 2000},
        ).fetchone()
    assert row is not None


def _passes(text: str) -> bool:
    try:
        check_filter(text, "filter")
    except InvalidOption:
        return False
    return True


def test_the_largest_filter_of_a_trigger_does_not_keep_an_event_out(
    publish_functions: Publish,
) -> None:
    """The trigger of the event table evaluates it with less stack left than a plain statement."""
    deepest = "exists($" + ".a" * 995 + ")"
    function = Function("deep", "deep_job", (Trigger("greet/requested", filter=f"!{deepest}"),))
    publish_functions(function)
    send(Event("greet/requested", {}))
    with database.connection() as connection:
        assert len(connection.execute("SELECT FROM runyard.invocations").fetchall()) == 1
