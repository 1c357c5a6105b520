"""An INSERT enqueues an event: from Python or SQL, in the caller's own transaction."""

import asyncio
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from runyard import Event, InvalidEvent, send, send_async
from runyard.events import millis, rows_as_json
from runyard.functions.registry import Function
from runyard.gateway.http.database_connection import ReconnectingConnection
from runyard.settings import settings
from runyard.store import database
from tests.conftest import wait_until
from tests.tables import rows


def test_an_event_makes_an_invocation_for_each_function_that_waits_for_it(
    function: Function,
) -> None:
    [known] = send("greet/requested", {"name": "Ada"})
    [unknown] = send("nobody/waits", {"x": 1})
    assert rows("SELECT event_id, function, status, attempt FROM runyard.invocations") == [
        {"event_id": known, "function": "greet", "status": "queued", "attempt": 0}
    ]
    assert rows("SELECT data FROM runyard.events WHERE id = %s", unknown) == [{"data": {"x": 1}}]


def test_ids_come_back_in_order(function: Function) -> None:
    ids = send([Event("greet/requested", {"n": n}) for n in range(50)])
    assert [
        row["n"]
        for row in rows(
            "SELECT (data->>'n')::int AS n FROM runyard.events ORDER BY array_position(%s, id)", ids
        )
    ] == list(range(50))


def test_a_second_event_with_the_same_id_starts_nothing(function: Function) -> None:
    first = send("greet/requested", {"n": 1}, id="order-7")
    second = send(
        [
            Event("greet/requested", {"n": 2}, id="order-7"),
            Event("greet/requested", {"n": 3}, id="order-8"),
            Event("greet/requested", {"n": 4}, id="order-8"),
        ]
    )
    assert second[0] == first[0]
    assert second[1] == second[2]
    assert [
        row["n"] for row in rows("SELECT (data->>'n')::int AS n FROM runyard.events ORDER BY 1")
    ] == [1, 3]
    assert len(rows("SELECT FROM runyard.invocations")) == 2


def test_after_24_hours_an_id_is_free_again(function: Function) -> None:
    first = send("greet/requested", id="order-7")
    rows(
        "UPDATE runyard.events SET received_at = now() - interval '24 hours 1 second' RETURNING id"
    )
    assert send("greet/requested", id="order-7") != first
    assert len(rows("SELECT FROM runyard.invocations")) == 2


def test_the_same_id_sent_at_once_by_many_starts_one(function: Function) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.extend(send("greet/requested", id="same")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert len(rows("SELECT FROM runyard.invocations")) == 1


def held_by_another(url: str, send_both: Callable[[], list[str]]) -> tuple[list[str], list[str]]:
    """Send the ids a and b while another transaction sends b and then a; return the results."""
    given: list[str] = []
    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watching:
        theirs = send(Event("greet/requested", id="b"), connection=other)
        thread = threading.Thread(target=lambda: given.extend(send_both()))
        thread.start()
        wait_until(
            lambda: (
                watching.execute(
                    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database()"
                ).fetchone()
                is not None
            )
        )
        theirs += send(Event("greet/requested", id="a"), connection=other)
        other.commit()
        thread.join()
    return given, theirs


def test_a_send_that_gives_way_to_another_of_the_same_ids_is_sent_again(
    function: Function, store_url: str
) -> None:
    mine, [b, a] = held_by_another(
        store_url,
        lambda: send([Event("greet/requested", id="a"), Event("greet/requested", id="b")]),
    )
    assert mine == [a, b]


def test_the_web_process_sends_again_what_gave_way_to_another_of_the_same_ids(
    function: Function, store_url: str
) -> None:
    async def post() -> list[str]:
        connection = ReconnectingConnection("test", 5)
        try:
            [row] = await connection.fetch_all(
                "send_shared",
                events=rows_as_json(
                    [Event("greet/requested", id="a"), Event("greet/requested", id="b")]
                ),
            )
        finally:
            await connection.close()
        return list(row["ids"])

    mine, [b, a] = held_by_another(store_url, lambda: asyncio.run(post()))
    assert mine == [a, b]


class Deaf:
    """A connection that breaks after the first send, so that its result is lost."""

    def __init__(self, url: str) -> None:
        query = dict(parse_qsl(urlsplit(url).query))
        self._target = f"{query['host']}/.s.PGSQL.{query['port']}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lost = False
        self.url = f"postgresql://{urlsplit(url).username}@127.0.0.1:{self._listening.getsockname()[1]}{urlsplit(url).path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for one in ready:
                    said = one.recv(65536)
                    if not said:
                        return
                    if one is client and b"send_v1" in said and not self._lost:
                        self._lost = True
                        server.sendall(said)
                        server.recv(65536)  # it is committed
                        return
                    (server if one is client else client).sendall(said)


def test_a_send_whose_answer_is_lost_is_sent_once_and_gets_its_id(
    function: Function, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = Deaf(store_url)
    monkeypatch.setenv("DATABASE_URL", deaf.url)
    database.close_pool()
    settings.cache_clear()
    try:
        ids = send([Event("greet/requested", {"n": n}) for n in range(3)])
    finally:
        monkeypatch.undo()
        database.close_pool()
        settings.cache_clear()
        deaf.close()
    assert [row["id"] for row in rows("SELECT id FROM runyard.events ORDER BY data->'n'")] == ids
    assert len(rows("SELECT FROM runyard.invocations")) == 3


def test_a_transaction_that_wants_no_notification_sends_none(
    function: Function, store_url: str, other_connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    with psycopg.connect(store_url, autocommit=True) as listening:
        listening.execute("LISTEN runyard_due")
        other_connection.execute("SET LOCAL runyard.notify = off")
        send("greet/requested", connection=other_connection)
        other_connection.commit()
        assert list(listening.notifies(timeout=0.2)) == []
        send("greet/requested", connection=other_connection)
        other_connection.commit()
        assert [
            notification.payload for notification in listening.notifies(timeout=15, stop_after=1)
        ] == ["greet"]


def test_one_bad_event_of_several_keeps_all_out(function: Function) -> None:
    with pytest.raises(InvalidEvent):
        send([Event("greet/requested"), Event("")])
    assert rows("SELECT FROM runyard.events") == []


def test_a_future_time_schedules(function: Function) -> None:
    send("greet/requested", ts=millis() + 60_000)
    [row] = rows(
        "SELECT extract(epoch FROM due_at - now())::float AS seconds FROM runyard.invocations"
    )
    assert 55 < row["seconds"] < 61


def test_plain_sql_sends(function: Function) -> None:
    [row] = rows("SELECT runyard.send('greet/requested', '{\"name\": \"Ada\"}') AS id")
    [again] = rows("SELECT runyard.send('greet/requested', id => 'k') AS id")
    [dup] = rows("SELECT runyard.send('greet/requested', id => 'k') AS id")
    assert len(row["id"]) == 26
    assert again == dup
    assert len(rows("SELECT FROM runyard.invocations")) == 2


def test_a_plain_insert_sends(function: Function) -> None:
    rows(
        "INSERT INTO runyard.events (name, data)"
        " SELECT 'greet/requested', jsonb_build_object('n', n) FROM generate_series(1, 5) AS n"
        " RETURNING id"
    )
    assert len(rows("SELECT FROM runyard.invocations")) == 5


@pytest.mark.parametrize(
    "call",
    [
        "send(NULL)",
        "send('')",
        "send('runyard/x')",
        "send('a', '[1]')",
        "send('a', NULL)",
        "send('a', jsonb_build_object('x', repeat('y', 600000)))",
    ],
)
def test_bad_sql_sends_are_refused_with_a_sentence(function: Function, call: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"runyard\.send"):
        rows(f"SELECT runyard.{call}")


def test_a_rolled_back_order_sends_no_mail(
    function: Function, other_connection: psycopg.Connection[tuple[object, ...]]
) -> None:
    send("greet/requested", connection=other_connection)
    other_connection.rollback()
    assert rows("SELECT FROM runyard.events") == []
    send("greet/requested", connection=other_connection)
    other_connection.commit()
    assert len(rows("SELECT FROM runyard.invocations")) == 1


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_transactions_carry_events(
    function: Function, store_url: str, driver: str
) -> None:
    engine = create_engine(store_url.replace("postgresql://", f"postgresql+{driver}://"))
    with engine.begin() as connection:
        send("greet/requested", {"n": 1}, connection=connection)
        connection.execute(text("SELECT 1"))
    with Session(engine) as session:
        send("greet/requested", {"n": 2}, connection=session)
        session.rollback()
    assert [row["n"] for row in rows("SELECT data->'n' AS n FROM runyard.events")] == [1]
    engine.dispose()


def test_coroutines_send_too(function: Function, store_url: str) -> None:
    async def go() -> None:
        await send_async("greet/requested", {"n": 1})
        connection = await psycopg.AsyncConnection.connect(store_url)
        await send_async([Event("greet/requested", {"n": 2})], connection=connection)
        await connection.commit()
        await connection.close()

    asyncio.run(go())
    assert len(rows("SELECT FROM runyard.invocations")) == 2


def test_a_send_wakes_those_that_listen(function: Function, store_url: str) -> None:
    with psycopg.connect(store_url, autocommit=True) as listening:
        listening.execute("LISTEN runyard_due")
        send("greet/requested")
        [notification] = list(listening.notifies(timeout=5, stop_after=1))
    assert notification.payload == "greet"
