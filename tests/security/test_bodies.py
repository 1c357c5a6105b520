"""Request bodies are parsed within limits, and an invalid one is a 400: never a 500, never slow."""

import base64
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest

from runyard import RunyardError
from runyard.engine import api_keys
from runyard.gateway.http import body as gateway_body
from runyard.gateway.http.body import MAX_VALUES, parse_json
from runyard.gateway.http.errors import HttpError, as_http_error
from runyard.store import database
from tests.security import fuzz
from tests.web_process import WebProcess, count


def cursor(*parts: Any) -> str:
    """A cursor as the API returns it."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


CURSORS = [
    "x",
    "=",
    "é",
    "W10",
    "bnVsbA",
    cursor(1, 2),
    cursor("2026-01-01T00:00:00Z", 1),
    cursor("2026-01-01", "x"),
    cursor("0001-01-01T00:00:00+14:00", "x"),
    cursor("9999-12-31T23:59:59-14:00", "x"),
    base64.urlsafe_b64encode(b"[" * 3000).decode(),
    base64.urlsafe_b64encode(b"9" * 5000).decode(),
]
TIMES = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "0001-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "99999-01-01T00:00:00Z",
    "x",
]


@pytest.mark.parametrize("given", CURSORS)
@pytest.mark.parametrize("path", ["/api/events", "/api/invocations?function=greet", "/v1/events"])
def test_a_cursor_that_is_none_is_a_bad_request(web: WebProcess, path: str, given: str) -> None:
    answer = web.get(f"{path}{'&' if '?' in path else '?'}cursor={given}")
    assert (answer.status_code, answer.json()["field"]) == (400, "cursor")


@pytest.mark.parametrize("given", TIMES)
@pytest.mark.parametrize(
    "path",
    [
        "/api/events?received_after=",
        "/api/events?received_before=",
        "/api/invocations?function=greet&created_after=",
        "/v1/events?received_after=",
    ],
)
def test_no_time_is_too_early_or_too_late_to_be_answered(
    web: WebProcess, path: str, given: str
) -> None:
    assert web.get(path + given.replace("+", "%2B")).status_code in (200, 400)


@pytest.mark.parametrize(
    "given",
    [
        "0001-01-01",
        "9999-12-31",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "x" * 5000,
    ],
)
def test_nor_on_the_dev_page(development: WebProcess, given: str) -> None:
    for field in ("since", "until", "before"):
        assert httpx.get(f"{development.url}/dev", params={field: given}).status_code in (200, 400)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"X-GitHub-Event": "push", "X-GitHub-Delivery": "1"}, b"null"),
        ({"X-GitHub-Event": "push", "X-GitHub-Delivery": "1"}, b"[]"),
        ({"X-GitHub-Event": "push", "X-GitHub-Delivery": "1"}, b'"x"'),
        ({"X-GitHub-Event": "x" * 600, "X-GitHub-Delivery": "1"}, b"{}"),
        ({"X-GitHub-Event": "push", "X-GitHub-Delivery": "x" * 600}, b"{}"),
        ({}, b"{}"),
        ({"X-GitHub-Event": "push", "X-GitHub-Delivery": "1"}, b'{"a": 1e999}'),
        (
            {"X-GitHub-Event": "push", "X-GitHub-Delivery": "1"},
            b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
        ),
    ],
)
def test_a_delivery_of_github_that_cannot_be_read_is_a_bad_request(
    development: WebProcess, headers: dict[str, str], body: bytes
) -> None:
    assert (
        httpx.post(f"{development.url}/webhooks/github", content=body, headers=headers).status_code
        == 400
    )
    assert count() == 0


@pytest.mark.parametrize(
    "event",
    [
        b"null",
        b"[]",
        b"{}",
        b'{"id": "1", "type": "x", "created": 1e999, "data": {"object": {}}}',
        b'{"id": "1", "type": "x", "created": "x", "data": {"object": {}}}',
        b'{"id": "1", "type": "x", "created": 1, "data": {"object": null}}',
        b'{"id": "1", "type": "x", "created": 1e20, "data": {"object": {}}}',
        b'{"id": "1", "type": "x", "created": 1780000000, "data": null}',
        b'{"id": "1", "type": null, "created": NaN, "data": {"object": {}}}',
        b'{"id": "1", "type": "x", "created": ' + b"9" * 5000 + b', "data": {"object": {}}}',
        b'{"id": "1", "type": "x", "created": -1e308, "data": {"object": {}}}',
    ],
)
def test_an_event_of_stripe_that_cannot_be_read_is_a_bad_request(
    development: WebProcess, event: bytes
) -> None:
    assert httpx.post(f"{development.url}/webhooks/stripe", content=event).status_code == 400
    assert count() == 0


@pytest.mark.parametrize("batch", [b"1", b"{}", b'"x"', b"null", b"[", b"[NaN]", b"[" * 100_000])
def test_a_batch_of_sendgrid_that_is_none_is_a_bad_request(
    development: WebProcess, batch: bytes
) -> None:
    assert httpx.post(f"{development.url}/webhooks/sendgrid", content=batch).status_code == 400


@pytest.mark.parametrize(
    "report",
    [
        b"[null]",
        b"[[]]",
        b"[{}]",
        b'[{"event": "bounce", "email": "a@b.co", "timestamp": 1e999}]',
        b'[{"event": "x", "email": 1, "timestamp": -1}]',
    ],
)
def test_a_report_of_sendgrid_that_cannot_be_read_is_counted(
    development: WebProcess, report: bytes
) -> None:
    answer = httpx.post(f"{development.url}/webhooks/sendgrid", content=report)
    assert (answer.status_code, answer.json()) == (200, {"ids": [], "not_understood": 1})


@pytest.mark.parametrize(
    "path",
    [
        "/dev/static/",
        "/dev/outbox/",
        "/dev/events/",
        "/dev/invocations/",
        "/dev/functions/",
        "/static/",
        "/locations/",
    ],
)
@pytest.mark.parametrize(
    "name", ["a" * 300, "a" * 5000, "%00", "%ff", "%E2%80%AE", "..%2f..%2fetc%2fpasswd", "."]
)
def test_no_name_of_a_file_is_too_long_or_too_odd_to_be_answered(
    development: WebProcess, path: str, name: str
) -> None:
    assert httpx.get(development.url + path + name).status_code < 500


@pytest.mark.parametrize(
    "path", ["/e/{key}", "/api/events", "/api/inngest/trigger", "/functions/v1/send-email"]
)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"data":' * 100_000,
        b'{"name": "a", "data": {"x": ' + b"9" * 5000 + b"}}",
        b'{"name": "a", "ts": 1e999}',
        b'{"name": "\\ud800"}',
        b"\xff\xfe",
        b'"',
        b"",
    ],
)
def test_json_that_cannot_be_read_is_refused(web: WebProcess, path: str, body: bytes) -> None:
    answer = web.post(path.format(key=web.keys["all"]), content=body)
    assert answer.status_code in (400, 413)
    assert count() == 0


MANY = b"{" + b",".join(b'"k%d":1' % number for number in range(700_000)) + b"}"


@pytest.mark.parametrize(
    "path",
    [
        "/e/{key}",
        "/api/events",
        "/api/inngest/trigger",
        "/functions/v1/send-email",
        "/api/bulk/cancel",
    ],
)
def test_a_body_of_too_many_values_is_refused(web: WebProcess, path: str) -> None:
    answer = web.post(path.format(key=web.keys["all"]), content=MANY)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def seconds(body: bytes) -> float:
    """The shortest time until a body is rejected."""

    def once() -> float:
        began = time.perf_counter()
        with pytest.raises(HttpError):
            parse_json(body)
        return time.perf_counter() - began

    return min(once() for _ in range(3))


def test_it_is_refused_before_it_is_parsed() -> None:
    began = time.perf_counter()
    json.loads(MANY)
    assert seconds(MANY) < time.perf_counter() - began


@pytest.mark.parametrize("piece", [b'"k":1,', b'"\\"', b'"\\', b'",', b'\\",', b'",\\'], ids=repr)
def test_counting_takes_as_long_as_the_body_is(piece: bytes) -> None:
    body = b"," * MAX_VALUES + piece * 100_000
    assert seconds(body * 10) < 40 * seconds(body)


def test_commas_in_strings_do_not_count_as_values() -> None:
    text = "a, b; " * (2 * MAX_VALUES)
    assert parse_json(json.dumps({"text": text, "quoted": '\\",' * 1000}).encode())["text"] == text


def test_errors_of_a_thousand_fields_have_a_bounded_message(web: WebProcess) -> None:
    data = {f"field{number}": 1 for number in range(20_000)}
    for path, body in (
        (f"/e/{web.keys['all']}", {"name": "email/send.requested", "data": data}),
        ("/functions/v1/send-email", data),
    ):
        answer = web.post(path, body)
        assert answer.status_code == 400
        assert len(answer.content) < 10_000


def test_the_name_of_a_wrong_field_is_shortened_in_errors(web: WebProcess) -> None:
    name = "x" * 400_000
    for path, body in (
        (f"/e/{web.keys['all']}", {"name": "email/send.requested", "data": {name: 1}}),
        (f"/e/{web.keys['all']}", {name: 1}),
        ("/functions/v1/send-email", {name: 1}),
    ):
        answer = web.post(path, body)
        assert answer.status_code == 400
        assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    "filter",
    [
        "(" * 3000 + "1",
        "!" * 5000 + "(1 == 1)",
        " && ".join(["$.a == 1"] * 20_000),
        "$" + ".a" * 30_000,
        "1 == 1" + " + 1" * 20_000,
    ],
)
def test_a_filter_that_is_too_much_is_a_bad_request(web: WebProcess, filter: str) -> None:
    answer = web.post("/api/bulk/cancel", {"filter": filter, "dry_run": True})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("statement", "status", "code"),
    [
        ("SELECT 1 / 0", 400, "invalid_value"),
        ("DO $$ BEGIN RAISE SQLSTATE '54001'; END $$", 400, "invalid_value"),
        (
            "DO $$ BEGIN RAISE SQLSTATE '53200' USING MESSAGE = 'out of memory'; END $$",
            503,
            "database_busy",
        ),
        (
            "DO $$ BEGIN RAISE SQLSTATE '53100' USING MESSAGE = 'no space left'; END $$",
            503,
            "database_busy",
        ),
        (
            "DO $$ BEGIN RAISE SQLSTATE '40P01' USING MESSAGE = 'deadlock detected'; END $$",
            503,
            "database_busy",
        ),
        (
            "DO $$ BEGIN RAISE SQLSTATE '57P03' USING MESSAGE = 'starting up'; END $$",
            503,
            "database_unavailable",
        ),
        ("SELECT pg_terminate_backend(pg_backend_pid())", 503, "database_unavailable"),
        ("SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)", 400, "query_timeout"),
    ],
)
def test_database_errors_have_the_matching_status(statement: str, status: int, code: str) -> None:
    with (
        pytest.raises((psycopg.Error, RunyardError)) as raised,
        database.transaction() as connection,
    ):
        connection.execute(statement.encode())
    problem = as_http_error(raised.value)
    assert (problem.status, problem.code) == (status, code)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_that_is_asked_at_random_is_an_error_of_ours(
    web: WebProcess, development: WebProcess, seed: int
) -> None:
    for face, headers in ((web, {"Authorization": f"Bearer {web.keys['all']}"}), (development, {})):
        statuses, wrong = fuzz.ask(face.url, 6, seed, headers)
        assert wrong == []
        assert len(statuses) >= 5


NESTED = {
    "lists": b"[" + b",".join([b"[" * 900 + b"]" * 900] * 5800) + b"]",
    "objects": b"[" + b",".join([b'{"":' * 500 + b"1" + b"}" * 500] * 3000) + b"]",
    "texts": b"[" + b'",",' * 2_500_000 + b'""]',
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED)
def test_a_few_large_bodies_do_not_hold_the_others_up(web: WebProcess, body: bytes) -> None:
    key = api_keys.create("hostile", ["send"], events=["contact/*"])[1]
    headers = {"Authorization": f"Bearer {key}"}
    with ThreadPoolExecutor(4) as threads:
        posts = [
            threads.submit(
                httpx.post, f"{web.url}/api/events", content=body, headers=headers, timeout=60
            )
            for _ in range(4)
        ]
        slowest = 0.0
        while not all(post.done() for post in posts):
            began = time.monotonic()
            assert httpx.get(f"{web.url}/healthz", timeout=60).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
    assert {post.result().status_code for post in posts} == {413}
    assert slowest < 2  # a single one used to block everybody for six seconds


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64])
def test_values_are_counted_right_wherever_a_piece_ends(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_body, "_PIECE", piece)
    dice = random.Random(piece)
    for _ in range(300):
        text = "".join(dice.choice('"\\,[{x') for _ in range(dice.randrange(30)))
        body = json.dumps([text, {text: [text]}]).encode()
        assert (
            gateway_body._count_values(body) == 4
        )  # two lists, an object and a comma, whatever is in the strings


def test_a_page_of_large_events_is_shorter_and_has_a_next_page(web: WebProcess) -> None:
    event = {"name": "greet/requested", "data": {"text": "x" * 500_000}}
    ids = [web.send(event)[0] for _ in range(10)]
    seen: list[str] = []
    cursor = ""
    pages = 0
    while cursor is not None:
        page = web.get(f"/api/events?limit=100{cursor and f'&cursor={cursor}'}")
        assert len(page.content) < 4_000_000
        seen += [found["id"] for found in page.json()["events"]]
        cursor = page.json()["cursor"]
        pages += 1
    assert seen == ids[::-1]
    assert pages > 1
