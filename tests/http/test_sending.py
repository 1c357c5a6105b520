"""The event API: what it accepts and rejects, and that a response comes after the commit."""

import asyncio
import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard.events import seeded_ulids
from runyard.store import database
from runyard.store.queries import Row
from tests.conftest import wait_until
from tests.tables import database_away, rows
from tests.web_process import WebProcess, count

EVENT = {"name": "greet/requested", "data": {"who": "Ada"}}


def send(web: WebProcess, body: Any, **headers: str) -> httpx.Response:
    """POST to the event API; bytes are sent unchanged."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        f"{web.url}/e/{web.keys['send']}", content=content, headers=headers, timeout=30
    )


def test_one_event_and_many_are_answered_with_their_ids_in_order(web: WebProcess) -> None:
    one = send(web, EVENT)
    assert one.status_code == 200
    assert one.json()["status"] == 200
    assert len(one.json()["ids"]) == 1
    many = send(web, [{"name": "greet/requested", "data": {"n": n}} for n in range(5)]).json()[
        "ids"
    ]
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT id, data FROM runyard.events WHERE id = ANY (%s)", (many,)
        ).fetchall()
    assert [
        dict(row["data"])["n"] for row in sorted(rows, key=lambda row: many.index(row["id"]))
    ] == list(range(5))  # type: ignore[call-overload]
    assert send(web, []).json() == {"ids": [], "status": 200}
    assert count("runyard.invocations") == 12


def test_every_field_of_an_event_is_stored(web: WebProcess) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    event = {
        "name": "a/b",
        "data": {"x": [1, None, "é"]},
        "user": {"id": 7},
        "v": "2024-01-01",
        "ts": 1_700_000_000_123,
        "id": "mine",
        "meta": {"sdk": "js"},
    }
    [event_id] = send(web, event, traceparent=trace).json()["ids"]
    kept = web.get(f"/api/events/{event_id}").json()
    wanted = {
        **{key: value for key, value in event.items() if key != "id"},
        "idempotency_key": "mine",
        "trace": trace,
        "source": "http",
    }
    assert {key: kept[key] for key in wanted} == wanted
    [other] = send(web, {"name": "a/b"}, traceparent="nonsense").json()["ids"]
    assert web.get(f"/api/events/{other}").json()["trace"] is None


def test_a_seed_makes_the_same_ids_again_and_nothing_twice(web: WebProcess) -> None:
    entropy = bytes(range(10))
    seed = f"1700000000000,{base64.b64encode(entropy).decode()}"
    first = send(web, [EVENT, EVENT], **{"x-inngest-event-id-seed": seed}).json()["ids"]
    assert send(web, [EVENT, EVENT], **{"x-inngest-event-id-seed": seed}).json()["ids"] == first
    assert first == seeded_ulids(seed, 2)
    assert count() == 2
    assert count("runyard.invocations") == 4


@pytest.mark.parametrize(
    ("seed", "number"),
    [
        ("0,AAAAAAAAAAAAAA==", None),
        ("1700000000000,AAAAAAAAAAAAAA", None),
        ("1700000000000", None),
        ("x,y", None),
        ("99999999999999999,AAAAAAAAAAAAAA==", None),
    ],
)
def test_a_malformed_seed_is_ignored(web: WebProcess, seed: str, number: None) -> None:
    assert seeded_ulids(seed, 1) is number
    assert send(web, EVENT, **{"x-inngest-event-id-seed": seed}).status_code == 200


def test_a_seed_counts_in_its_last_four_bytes() -> None:
    # The time is in the first ten characters, the entropy plus one in the last ones; the counter
    # wraps within 32 bits.
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    for tail in (0, 7, 2**32 - 1):
        entropy = b"\x01\x02\x03\x04\x05\x06" + tail.to_bytes(4, "big")
        [made] = seeded_ulids(f"1700000000000,{base64.b64encode(entropy).decode()}", 1) or []
        number = 0
        for character in made:
            number = number * 32 + alphabet.index(character)
        assert number.to_bytes(16, "big") == (1_700_000_000_000).to_bytes(6, "big") + entropy[
            :6
        ] + ((tail + 1) % 2**32).to_bytes(4, "big")


def test_a_repeated_id_starts_nothing_within_a_day_nor_within_one_insert(web: WebProcess) -> None:
    event = {**EVENT, "id": "once"}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: send(web, [event, event]).json()["ids"], range(8)))
    assert len({one for ids in answers for one in ids}) == 1
    assert count() == 1


BAD: list[tuple[Any, int, str]] = [
    (b"{not json", 400, "not JSON"),
    (b'{"name": "a/b", "data": {"n": ' + b"9" * 10_000 + b"}}", 400, "more than 4300 digits"),
    (b"", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b"[" * 100_000, 400, "nested"),
    (
        b'{"name": "a/b", "data": ' + b'{"x":' * 101 + b"1" + b"}" * 101 + b"}",
        400,
        "nested more than 100",
    ),
    (b'{"name": "a/b", "data": {"x": NaN}}', 400, "is not a JSON number"),
    (b'{"name": "a/b", "data": {"x": 1e999}}', 400, "JSON"),
    (b'{"name": "a/b", "data": {"x": ' + b"9" * 5000 + b"}}", 400, "JSON"),
    (
        b'{"name": "a/b", "data": {"x": "\\ud800"}}',
        400,
        "data.x: contains half of a surrogate pair",
    ),
    (b'"text"', 400, "Request body must contain an event object or an array of event objects"),
    (b"null", 400, "Request body must contain"),
    ([EVENT, {"name": 5}], 400, "[1].name"),
    ([EVENT, 5], 400, "[1]"),
    ([EVENT, {**EVENT, "nmae": "x"}], 400, "[1].nmae"),
    ([EVENT, {**EVENT, "data": {"x": "a\0"}}], 400, "[1].data.x"),
    ([EVENT, 5], 400, "an event is a JSON object"),
    ({"data": {}}, 400, "name: missing"),
    ({"name": ""}, 400, "1 to 512"),
    ({"name": "x" * 513}, 400, "1 to 512"),
    ({"name": "a/b", "data": [1]}, 400, "data: must be a JSON object"),
    ({"name": "a/b", "user": "me"}, 400, "user: must be a JSON object"),
    ({"name": "a/b", "ts": "now"}, 400, "ts: must be milliseconds"),
    ({"name": "a/b", "ts": 10**18}, 400, "ts: must be milliseconds"),
    ({"name": "a/b", "id": "x" * 513}, 400, "id: must be text of up to 512"),
    ({"name": "a/b", "nmae": 1}, 400, "nmae"),
    ({"name": "a\x00b"}, 400, "NUL"),
    ({"name": "a/b", "data": {"\x00": 1}}, 400, "NUL"),
    ({"name": "a/b", "data": {"x": "y" * 600_000}}, 400, "512 KiB"),
    ({"name": "a/b", "user": {"x": "y" * 600_000}}, 400, "512 KiB"),
    ([{"name": "a/b"}] * 5001, 400, "5000"),
    ({"name": "runyard/function.failed"}, 400, "internal"),
    ({"name": "inngest/function.failed"}, 400, "internal"),
    (
        {"name": "email/send.requested", "data": {"to": ["nobody"], "text": "x", "subject": "s"}},
        400,
        "data.to.0",
    ),
    (b" " * (10 * 1024 * 1024 + 1), 413, "10240 KiB"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD)
def test_a_bad_body_is_refused_whole_with_a_sentence(
    web: WebProcess, body: Any, status: int, says: str
) -> None:
    answer = send(web, body)
    found = answer.json()
    assert (answer.status_code, found["status"], found["ids"]) == (status, status, [])
    assert says in found["error"]
    assert found["code"]
    assert count() == 0


def test_the_bad_field_is_named(web: WebProcess) -> None:
    found = send(
        web,
        {
            "name": "email/send.requested",
            "data": {"to": ["a@example.com"], "text": "x", "subject": "s", "dta": 1},
        },
    ).json()
    assert (found["code"], found["field"]) == ("invalid_event", "data.dta")


def test_limits_are_met_exactly(web: WebProcess) -> None:
    assert len(send(web, [{"name": "none/waits"}] * 5000).json()["ids"]) == 5000
    assert send(web, {"name": "a/b", "data": {"x": "y" * (512 * 1024 - 8)}}).status_code == 200
    assert send(web, {"name": "a/b", "data": {"x": "y" * (512 * 1024 - 7)}}).status_code == 400
    deep: Any = 1
    for _ in range(99):
        deep = [deep]
    assert send(web, {"name": "a/b", "data": {"x": deep}}).status_code == 200


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["\x00", "\ud800", "9" * 400]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "data", "id", "ts", "user", "v", "meta", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(json_values, max_size=4).map(
        lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
    )
    | st.binary(max_size=60)
)
def test_whatever_comes_is_taken_whole_or_refused_whole(web: WebProcess, body: bytes) -> None:
    before = count()
    answer = send(web, body)
    assert answer.status_code in (200, 400), answer.text
    ids = answer.json()["ids"]
    assert count() - before <= len(ids)
    assert answer.status_code == 200 or ids == []


def test_one_that_the_database_refuses_does_not_harm_those_that_share_its_insert(
    web: WebProcess,
) -> None:
    with database.connection() as connection:
        connection.execute(
            "ALTER TABLE runyard.events ADD CONSTRAINT refused CHECK (name <> 'refuse/me')"
        )
    try:
        with ThreadPoolExecutor(24) as threads:
            mixed = [
                json.dumps({"name": "refuse/me"} if n % 6 == 0 else EVENT).encode()
                for n in range(120)
            ]
            statuses = list(threads.map(lambda body: send(web, body).status_code, mixed))
    finally:
        with database.connection() as connection:
            connection.execute("ALTER TABLE runyard.events DROP CONSTRAINT refused")
    assert statuses.count(200) == 100
    assert count() == 100


def test_a_transaction_that_holds_an_id_blocks_no_other_sender(
    web: WebProcess, web_database_url: str
) -> None:
    """One client has sent an id in an open transaction; others send in the meantime."""

    def waits_for_a_lock() -> list[Row]:
        return rows(
            "SELECT pid FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

    with psycopg.connect(web_database_url) as application:
        own = web.hold(application, "greet/requested", "held", "send")
        with ThreadPoolExecutor(8) as threads:
            held = threads.submit(send, web, {**EVENT, "id": "held"})
            others = list(threads.map(lambda _: send(web, EVENT), range(40)))
            assert all(answer.status_code == 200 for answer in others)
            # A request that waits for it would time out after a second.
            assert sorted(answer.elapsed.total_seconds() for answer in others)[20] < 0.9
            answer = held.result()
            assert (answer.status_code, answer.json()["code"]) == (
                503,
                "locked",
            )
            assert answer.headers["retry-after"]
            waiting = threads.submit(send, web, {**EVENT, "id": "held"})
            wait_until(waits_for_a_lock)
            application.commit()
            assert waiting.result().json()["ids"] == [own]
    assert count() == 41


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "nonsense", ""])
def test_the_content_type_does_not_matter(web: WebProcess, content_type: str) -> None:
    assert send(web, EVENT, **{"content-type": content_type}).status_code == 200


def test_an_encoded_body_is_refused(web: WebProcess) -> None:
    assert send(web, EVENT, **{"content-encoding": "gzip"}).status_code == 415


def test_a_duplicate_field_counts_once(web: WebProcess) -> None:
    answer = send(web, b'{"name": "a/b", "name": "c/d"}')
    assert answer.status_code == 200
    assert web.get(f"/api/events/{answer.json()['ids'][0]}").json()["name"] == "c/d"


def raw(web: WebProcess, *parts: bytes, pause: float = 0.0) -> bytes:
    """Write bytes to the port, and read until it closes or responds."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=40) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        while b"\r\n\r\n" not in answer:
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
        return answer


def test_a_body_that_is_shorter_than_promised_makes_no_event(web: WebProcess) -> None:
    key = web.keys["send"]
    with socket.create_connection(("127.0.0.1", web.port)) as connection:
        connection.sendall(
            f"POST /e/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n".encode()
            + json.dumps(EVENT).encode()
        )
    assert raw(
        web, f"POST /e/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: no\r\n\r\n".encode()
    ).startswith(b"HTTP/1.1 400")
    assert send(web, EVENT).status_code == 200
    assert count() == 1


def test_slow_clients_hold_nothing(web: WebProcess) -> None:
    """Clients that never finish are disconnected; others are served in the meantime."""
    key = web.keys["send"]
    headers = f"POST /e/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{{".encode()

    all_have_begun = asyncio.Barrier(61)

    async def begin(first: bytes) -> tuple[float, bytes]:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(first)
        await writer.drain()
        await all_have_begun.wait()
        answer = await asyncio.wait_for(reader.read(), 40)
        writer.close()
        return time.monotonic() - began, answer

    async def all_of_them() -> list[tuple[float, bytes]]:
        beginnings = [b"POST /e/x HTTP/1.1\r\nHos"] * 30 + [headers] * 30
        slow = [asyncio.create_task(begin(first)) for first in beginnings]
        await all_have_begun.wait()
        began = time.monotonic()
        async with httpx.AsyncClient() as client:
            for _ in range(20):
                assert (await client.post(f"{web.url}/e/{key}", json=EVENT)).status_code == 200
        assert time.monotonic() - began < 20
        return await asyncio.gather(*slow)

    answers = asyncio.run(all_of_them())
    assert all(2 < seconds < 20 for seconds, _ in answers)
    assert all(answer == b"" for _, answer in answers[:30])
    assert all(answer.startswith(b"HTTP/1.1 408") for _, answer in answers[30:])
    assert count() == 20


def test_a_missing_database_is_reported_and_service_resumes_by_itself(
    web: WebProcess, web_database_url: str
) -> None:
    assert send(web, EVENT).status_code == 200
    with database_away(web_database_url):
        for ask in (
            lambda: send(web, EVENT),
            lambda: web.get("/api/events"),
            lambda: web.post("/api/inngest/trigger", {"event": "a/b"}),
        ):
            began = time.monotonic()
            answer = ask()
            assert (answer.status_code, answer.json()["code"]) == (
                503,
                "database_unavailable",
            )
            assert int(answer.headers["retry-after"]) >= 1
            assert time.monotonic() - began < 15
        began = time.monotonic()
        with ThreadPoolExecutor(30) as threads:
            assert {
                answer.status_code for answer in threads.map(lambda _: send(web, EVENT), range(60))
            } == {503}
        # One after another, they would take a minute or more.
        assert time.monotonic() - began < 30
        assert httpx.get(f"{web.url}/healthz").status_code == 200
        assert httpx.get(f"{web.url}/readyz", timeout=20).status_code == 503
    wait_until(lambda: send(web, EVENT).status_code == 200, 10)
    wait_until(lambda: web.get("/api/events").status_code == 200, 10)
    assert count() == 2


@pytest.mark.parametrize("id", [{}, {"id": "mine"}], ids=["without an id", "with an id"])
def test_the_first_event_after_the_database_has_ended_all_sessions_is_accepted(
    web: WebProcess, web_database_url: str, id: dict[str, str]
) -> None:
    assert send(web, {**EVENT, **id}).status_code == 200
    with database_away(web_database_url):
        pass
    assert send(web, {**EVENT, **id}).status_code == 200


def test_what_was_answered_with_an_id_is_in_the_table_after_kill_9(web: WebProcess) -> None:
    """Clients send while the process is killed; every id that they got exists."""
    given_out: list[str] = []
    stop = time.monotonic() + 3

    def client(_: int) -> None:
        with httpx.Client() as http:
            while time.monotonic() < stop:
                try:
                    given_out.extend(
                        http.post(f"{web.url}/e/{web.keys['send']}", json=[EVENT] * 3).json()["ids"]
                    )
                except httpx.TransportError:
                    time.sleep(0.05)

    with ThreadPoolExecutor(8) as threads:
        clients = [threads.submit(client, number) for number in range(8)]
        wait_until(lambda: len(given_out) > 20)
        web.stop(kill=True)
        web.start()
        for sending in clients:
            sending.result()
    stored = rows("SELECT id FROM runyard.events WHERE id = ANY (%s)", given_out)
    assert {row["id"] for row in stored} == set(given_out)


def test_any_page_may_send_events_and_no_cookie_goes_with_it(web: WebProcess) -> None:
    preflight = httpx.options(
        f"{web.url}/e/{web.keys['send']}",
        headers={
            "Origin": "https://any.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-inngest-sdk",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    answer = send(web, EVENT, origin="https://any.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
