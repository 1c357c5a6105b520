"""The dev page sends several events at once, and takes uploads."""

import json
import re

import pytest

from runyard.gateway.api.events import MAX_EVENTS
from tests.http.test_dev_page import Visitor
from tests.tables import rows
from tests.web_process import WebProcess, count

PAGE = "/dev/send/several"


@pytest.fixture
def visitor(web: WebProcess) -> Visitor:
    return Visitor(web, "all")


def sent(visitor: Visitor, events: str, do: str = "send") -> tuple[int, str]:
    """The status and the page after sending these events by the form."""
    response = visitor.post(PAGE, page=PAGE, events=events, do=do)
    return response.status_code, response.text


ARRAY = json.dumps([{"name": "also/one", "data": {"n": 1}}, {"name": "also/two"}])
LINES = '{"name": "also/one", "data": {"n": 1}}\r\n\r\n  {"name": "also/two"}\r\n'
ONE = '{\n  "name": "also/one"\n}'


@pytest.mark.parametrize("events", [ARRAY, LINES], ids=["an array", "lines"])
def test_events_are_sent_and_their_ids_listed_in_order(visitor: Visitor, events: str) -> None:
    status, page = sent(visitor, events)
    assert status == 200
    assert "2 events were sent" in page
    stored = rows("SELECT id, name, source FROM runyard.events ORDER BY id")
    assert [(row["name"], row["source"]) for row in stored] == [
        ("also/one", "dev page"),
        ("also/two", "dev page"),
    ]
    assert re.findall(r'href="/dev/events/(\w+)"', page) == [row["id"] for row in stored]


def test_one_event_may_have_several_lines(visitor: Visitor) -> None:
    assert "1 event was sent" in sent(visitor, ONE)[1]


def test_a_check_sends_nothing(visitor: Visitor) -> None:
    assert "2 events are valid." in sent(visitor, LINES, do="check")[1]
    assert count() == 0


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ("", "there is no event"),
        ("[]", "there is no event"),
        ('{"name": "a/b"}\n{"name": ', "<code>line 2</code>: it is not JSON"),
        ('[{"name": "a/b"}, 7]', "<code>[1]</code>: an event is a JSON object"),
        ('{"name": "a/b"}\n{"nam": "a/b"}', "<code>line 2: nam</code>: unknown field"),
        ('[{"name": "email/send.requested", "data": {}}]', "<code>[0]: data.to</code>: "),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps([{"name": "a/b"}] * (MAX_EVENTS + 1)), "5000 may be sent at once"),
        ('["\\ud800"]', "an event is a JSON object"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_nothing_is_sent(
    visitor: Visitor, events: str, problem: str
) -> None:
    status, page = sent(visitor, events)
    assert status == 400
    assert problem in page
    assert count() == 0


def test_the_text_and_the_first_problems_stay(visitor: Visitor) -> None:
    _, page = sent(visitor, '{"nam": "<b>"}\n' * 30)
    assert page.count("unknown field") == 20
    assert "And 10 more." in page
    assert "{&#34;nam&#34;: &#34;&lt;b&gt;&#34;}" in page


def test_a_key_that_only_reads_sends_nothing(web: WebProcess) -> None:
    assert sent(Visitor(web, "read"), LINES)[0] == 403
    assert count() == 0
