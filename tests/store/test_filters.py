"""The check of filters at import agrees with PostgreSQL about what is SQL/JSON path."""

import random

import pytest

from runyard.errors import InvalidOption
from runyard.paths import check_filter
from runyard.store import database

SEEDS = [
    '$.data.total > 100 && $.data.country == "CH"', '$.data.items[*].price > 10', '$.data ? (@.a > 1 && exists(@.b))', '($.a + 1) * 2 >= 3 || !($.b == null)',
    '$.data.name like_regex "^a.*z$" flag "i"', '$.data.name starts with "x"', 'strict $.data.a[0 to last].b.size() > 2', '(($.a == 1) is unknown)', '-$.a.abs() < 3.5e2',
    '$."odd name".type() == "string"', 'lax $.**{1 to 3}.x == true', '$.a[last - 1, 0] != $var', '$.a.decimal(10, 2) > 1', '$.d.datetime("YYYY-MM-DD") < $.e.datetime()',
    '$', '1', '"x"', 'true', '$.a == $.b', '$.a.b.c', '$.*', '$[*]', 'exists($.a)', '!exists($.a)', '$.a % 2 == 0', '$ ? (@ > 1) ? (@ < 5)',
]  # fmt: skip


def _postgres_takes(text: str) -> bool:
    with database.connection() as connection:
        row = connection.execute("SELECT pg_input_is_valid(%s, 'jsonpath') AS ok", (text,)).fetchone()
    return bool(row and row["ok"])


def _we_take(text: str) -> bool:
    try:
        check_filter(text, "filter")
    except InvalidOption as error:
        assert "at character" in str(error)
        return False
    return True


@pytest.mark.parametrize("text", SEEDS)
def test_what_is_right_is_taken(store_url: str, text: str) -> None:
    assert _postgres_takes(text) and _we_take(text)


def test_whatever_is_cut_swapped_or_doubled_is_judged_alike(store_url: str) -> None:
    """Two thousand broken filters: PostgreSQL and the check agree on each; a doubt would show as a filter that loads and then fails."""
    dice = random.Random(7)
    wrong: list[str] = []
    for _ in range(2000):
        text = list(dice.choice(SEEDS))
        for _ in range(dice.randint(1, 3)):
            place, action = dice.randrange(len(text) + 1), dice.random()
            if action < 0.4 and text:
                del text[min(place, len(text) - 1)]
            elif action < 0.8:
                text.insert(place, dice.choice(list("$@.()[]?!&|=<>\"'+-*/%, aex10{}")))
            else:
                text = text[:place]
        joined = "".join(text)
        if _postgres_takes(joined) != _we_take(joined):
            wrong.append(joined)
    assert wrong == []


@pytest.mark.parametrize(("text", "position"), [("$.data.total >", 15), ("$.a & 1", 5), ('$.a == "x', 8), ("$.data.x == @.y", 13), ("$.a.foo() > 1", 5)])
def test_an_error_says_where(text: str, position: int) -> None:
    with pytest.raises(InvalidOption, match=f"at character {position}"):
        check_filter(text, "filter")
