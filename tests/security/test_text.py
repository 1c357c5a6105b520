"""Filters, names, times and headers are parsed in linear time, and rejected beyond a limit."""

import base64
import hmac
import json
import sys
import time
from collections.abc import Callable
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.errors import InvalidEvent, InvalidOption
from runyard.events import Event, EventData, catalog
from runyard.functions.triggers import Trigger, matches
from runyard.gateway.dev.search import as_filter
from runyard.gateway.http.signatures import StandardWebhooks, Stripe
from runyard.store import database
from runyard.syntax import jsonpath
from runyard.syntax.durations import seconds
from runyard.syntax.jsonpath import MAX_FILTER_LENGTH, check_filter, parse_path
from runyard.syntax.times import parse_time
from tests.web_process import WebProcess

SMALL, TENFOLD, MOST = 20_000, 200_000, 40
# The worst known cases: those that made the parser backtrack, or would.
PIECES = {
    "brackets": "(",
    "alternatives": "1==1||",
    "conditions": "1 == 1 && ",
    "signs": "-",
    "comments": "/* ",
    "slashes": "/",
    "quotes": '"',
    "escapes": '"\\',
    "backslashes": "\\",
    "underscores": "1_",
    "digits": "1",
    "points": "1.",
    "words": "a",
    "roots": "$",
    "subscripts": "$[",
    "filters": "$?(1==1||",
    "negations": "!(",
    "exists": "exists(",
    "escapes that end early": '"\\u00',
    "levels": ".**{",
    "words before comments": "a/",
    "patterns": '1 like_regex "(((',
    "blanks": " ",
    "brackets around values": "((1)+",
}


def _seconds(
    act: Callable[[], object], refusals: tuple[type[Exception], ...] = (InvalidOption,)
) -> float:
    """The shortest time, rejected or not."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        try:
            act()
        except refusals:
            pass
        best = min(best, time.perf_counter() - began)
    return best


def _growth(act: Callable[[int], object], small: int = SMALL, large: int = TENFOLD) -> float:
    """By how much the time grows with the size; times below 0.1 ms count as that."""
    return _seconds(lambda: act(large)) / max(_seconds(lambda: act(small)), 0.0001)


def test_a_filter_within_the_bounds_is_judged_at_once() -> None:
    for piece in PIECES.values():
        for end in ("", '"', "1", "*/", ")"):
            text = (piece * MAX_FILTER_LENGTH)[: MAX_FILTER_LENGTH - len(end)] + end
            assert _seconds(lambda text=text: check_filter(text, "filter")) < 0.5, text[:20]


def test_the_time_that_a_filter_takes_grows_with_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for bound in ("MAX_FILTER_LENGTH", "MAX_TOKENS", "MAX_DEPTH", "MAX_PATTERN_LENGTH"):
        monkeypatch.setattr(jsonpath, bound, 10**9)
    for kind, piece in PIECES.items():
        assert (
            _growth(lambda size, piece=piece: check_filter((piece * size)[:size], "filter")) < MOST
        ), kind


def test_thirteen_brackets_are_refused_at_once() -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidOption, match="at character 15: expected '\\)'"):
        check_filter("(" * 13 + "1", "filter")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("$." + "a" * MAX_FILTER_LENGTH, "may have 4,000 characters, not 4,002"),
        ("$" + ".a" * 1_500, "may have 2,000 names, values and signs"),
        ("(" * 51 + "1" + ")" * 51, "brackets may be nested 50 levels deep"),
        ('$.a like_regex "' + "(.*)" * 200 + '"', "may have 500 characters"),
    ],
)
def test_a_filter_beyond_a_bound_is_refused_with_it(text: str, reason: str) -> None:
    with pytest.raises(InvalidOption, match=reason):
        check_filter(text, "filter")


def test_a_filter_of_every_depth_is_judged_with_hardly_any_stack_left() -> None:
    def deep(left: int) -> str:
        return deep(left - 1) if left else check_filter("(" * 50 + "1" + ")" * 50, "filter")

    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    assert deep(sys.getrecursionlimit() - depth - 30).startswith("(")


def test_a_filter_that_is_not_a_string_is_rejected() -> None:
    with pytest.raises(InvalidOption, match="as text, as in"):
        Trigger("shop/paid", filter=5)  # type: ignore[arg-type]


def test_a_path_is_bounded_too() -> None:
    with pytest.raises(InvalidOption, match="may have 1,000 characters"):
        parse_path("data" + ".a" * 1_000, "match")


def test_slow_filters_over_http_block_nobody(development: WebProcess, web: WebProcess) -> None:
    """What once blocked all threads for good: the search of the dev page, the bulk endpoints."""
    typed = "(" * 40 + "1"
    began = time.monotonic()
    for _ in range(10):
        page = development.get("/dev", key=None, params={"path": typed})
        assert "not SQL/JSON path at character" in page.text
    answer = web.post("/api/bulk/replay", {"filter": typed, "dry_run": True})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_option")
    assert time.monotonic() - began < 20


def test_a_chain_that_postgres_would_refuse_is_a_bad_request(web: WebProcess) -> None:
    answer = web.post(
        "/api/bulk/replay", {"filter": " && ".join(["1 == 1"] * 20_000), "dry_run": True}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_option")
    answer = web.post("/api/bulk/replay", {"filter": "&&".join(["1==1"] * 500), "dry_run": True})
    assert (answer.status_code, answer.json()) == (200, {"total": 0})


# Names and patterns


@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "*" * 200 + "b", "a*" * 100 + "*b"])
def test_the_time_that_a_pattern_takes_grows_with_the_name(pattern: str) -> None:
    assert _growth(lambda size: matches(pattern, "a" * size)) < MOST
    assert _seconds(lambda: matches(pattern, "a" * 512)) < 0.05


@given(st.text("ab*\n.", max_size=8), st.text("ab*\n.", max_size=10))
def test_a_pattern_means_what_it_says(pattern: str, name: str) -> None:
    def slowly(rest: str, text: str) -> bool:
        if not rest:
            return not text
        if rest[0] == "*":
            return any(slowly(rest[1:], text[at:]) for at in range(len(text) + 1))
        return bool(text) and rest[0] == text[0] and slowly(rest[1:], text[1:])

    assert matches(pattern, name) == slowly(pattern, name)


def test_the_database_judges_a_pattern_alike(security_url: str) -> None:
    patterns = ["shop/*", "*", "shop*", "*a*b", "shop/a%*", "shop_*", "*\n*"]
    names = ["shop/paid", "shop/", "shop/a\nb", "shop", "shop/a%b", "shop_paid", "shop/ä"]
    pairs = [(pattern, name) for pattern in patterns for name in names]
    with database.connection() as connection:
        judged = [
            connection.execute(
                "SELECT %s LIKE %s AS meets", (name, Trigger(pattern).pattern)
            ).fetchone()
            for pattern, name in pairs
        ]
    assert [(*pair, row and row["meets"]) for pair, row in zip(pairs, judged, strict=True)] == [
        (*pair, matches(*pair)) for pair in pairs
    ]


# Times and durations


@pytest.mark.parametrize("size", [SMALL, TENFOLD])
def test_a_long_text_is_not_a_duration(size: int) -> None:
    for text in ("1" * size, "1." * size, "1s" * size, " " * size):
        began = time.perf_counter()
        with pytest.raises(InvalidOption) as refused:
            seconds(text, "--since")
        assert time.perf_counter() - began < 2
        assert len(str(refused.value)) < 400


def test_a_number_too_large_for_a_float_is_out_of_bounds() -> None:
    with pytest.raises(InvalidOption, match="out of bounds"):
        seconds(10**400, "sleep")


@pytest.mark.parametrize(
    "written",
    [
        "0001-01-01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31",
        "9999-12-31T23:59:59-14:00",
        "9999-12-31T23:59:59.999999",
    ],
)
def test_a_time_at_the_ends_of_the_calendar_is_refused_clearly(written: str) -> None:
    with pytest.raises(InvalidOption, match=r"since '.*': give a year from 0002 to 9998"):
        parse_time(written, "since")


@pytest.mark.parametrize("field", ["since", "until"])
def test_the_search_says_what_is_wrong_with_a_time(development: WebProcess, field: str) -> None:
    page = development.get("/dev", key=None, params={field: "0001-01-01"})
    assert (page.status_code, "give a year from 0002 to 9998" in page.text) == (200, True)


def test_the_form_for_an_event_says_what_is_wrong_with_its_time(development: WebProcess) -> None:
    opened = development.get("/dev/send", key=None, params={"name": "greet/requested"})
    token = opened.text.partition('name="token" value="')[2].partition('"')[0]
    form = {
        "token": token,
        "name": "greet/requested",
        "mode": "json",
        "json": "{}",
        "at": "9999-12-31",
        "do": "check",
    }
    page = development.ask(
        "POST",
        "/dev/send",
        key=None,
        data=form,
        cookies=opened.cookies,
        headers={"Origin": development.url},
    )
    assert (page.status_code, "give a year from 0002 to 9998" in page.text) == (200, True)


# Other input


def test_the_time_that_a_search_for_a_path_takes_grows_with_its_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runyard.gateway.dev.search.MAX_FILTER_LENGTH", 10**9)
    for text in ("data.a = x{} y", "data.a{}", "{}=", "a{}b"):
        assert (
            _growth(lambda size, text=text: as_filter(text.format(" " * size)), 2_000, 20_000)
            < MOST
        )


def test_a_search_for_a_path_is_bounded() -> None:
    with pytest.raises(InvalidOption, match="may have 4,000 characters"):
        as_filter("data.to = " + "a" * MAX_FILTER_LENGTH)


def test_a_search_for_a_path_means_what_it_did_whatever_is_compared() -> None:
    means = {
        "data.to": 'exists($."data"."to")',
        "data.to=": '$."data"."to" == ""',
        " data.to =  ada lovelace ": '$."data"."to" == "ada lovelace"',
        "data.n = 5": '$."data"."n" == "5" || $."data"."n" == 5',
        "data.x = a=b": '$."data"."x" == "a=b"',
        "data.x = " + "[" * 3_000: f'$."data"."x" == "{"[" * 3_000}"',
    }
    assert {typed: as_filter(typed) for typed in means} == means
    assert [check_filter(filter, "path") for filter in means.values()] == list(means.values())


def test_too_deep_nesting_is_reported_next_to_its_field(development: WebProcess) -> None:
    opened = development.get("/dev/send", key=None, params={"name": "email/send.requested"})
    token = opened.text.partition('name="token" value="')[2].partition('"')[0]
    form = {
        "token": token,
        "name": "email/send.requested",
        "do": "check",
        "data.data": "[" * 100_000,
    }
    page = development.ask(
        "POST",
        "/dev/send",
        key=None,
        data=form,
        cookies=opened.cookies,
        headers={"Origin": development.url},
    )
    assert (page.status_code, "this is not JSON" in page.text) == (200, True)


def test_an_invented_cursor_is_a_bad_request(web: WebProcess) -> None:
    for written in (
        "[" * 20_000,
        json.dumps(["2026-01-01T00:00:00+00:00", "\ud800"]),
        json.dumps(["0001-01-01", "x"]),
    ):
        cursor = base64.urlsafe_b64encode(written.encode()).decode().rstrip("=")
        assert web.get("/api/events", params={"cursor": cursor}).status_code == 400


@pytest.mark.parametrize("scheme", ["standard", "stripe"])
def test_many_signatures_do_not_have_the_body_signed_for_each(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right one is still found among them."""
    monkeypatch.setenv("HOOK_SECRET", "first-secret,second-secret")
    body, now = b"x" * 2**20, str(int(time.time()))
    digest = hmac.new(
        b"second-secret",
        (f"m.{now}." if scheme == "standard" else f"{now}.").encode() + body,
        sha256,
    )

    def check(many: int) -> None:
        if scheme == "standard":
            headers = {
                "webhook-id": "m",
                "webhook-timestamp": now,
                "webhook-signature": "v1,x " * many
                + f"v1,{base64.b64encode(digest.digest()).decode()}",
            }
            StandardWebhooks("HOOK_SECRET").check(headers, body)
        else:
            Stripe("HOOK_SECRET").check(
                {"stripe-signature": f"t={now}" + ",v1=x" * many + f",v1={digest.hexdigest()}"},
                body,
            )

    assert _seconds(lambda: check(5_000), ()) < 20 * _seconds(lambda: check(1), ())


def test_the_problems_of_an_event_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbers(EventData):
        numbers: list[int]

    monkeypatch.setattr(catalog, "_types", {"numbers/given": Numbers})
    with pytest.raises(InvalidEvent, match="9,950 more fields are wrong") as refused:
        Event("numbers/given", {"numbers": ["x"] * 10_000}).checked()
    assert len(str(refused.value)) < 10_000
