"""Signals in the database: each goes to one wait, which is looked up by its index."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from runyard.engine.signals import send_signal
from runyard.errors import InvalidOption
from runyard.store import database
from runyard.store.queries import fetch_one, statements
from tests.conftest import Publish
from tests.tables import rows


@pytest.fixture
def waiting(publish_functions: Publish) -> list[int]:
    """Three invocations that wait."""
    publish_functions()
    found = rows(
        "INSERT INTO runyard.invocations (event_id, function, status)"
        " SELECT 'event' || n, 'greet', 'waiting' FROM generate_series(1, 3) AS n RETURNING id"
    )
    return [row["id"] for row in found]


def wait(invocation: int, signal: str, *, replaces: bool = False) -> bool:
    """Register a wait; return whether it is over at once."""
    entry = {
        "invocation": invocation,
        "step": "wait",
        "kind": "signal",
        "signal": signal,
        "replaces": replaces,
        "seconds": 60,
    }
    with database.connection() as connection:
        row = fetch_one(connection, "wait", waits=json.dumps([entry]))
    assert row is not None
    return bool(row["done"])


def test_of_many_senders_one_reaches_the_wait(waiting: list[int]) -> None:
    wait(waiting[0], "go")
    with ThreadPoolExecutor(8) as pool:
        reached = list(pool.map(lambda n: send_signal("go", n), range(16)))
    assert [found[0] for found in reached if found is not None] == [waiting[0]]


def test_who_waits_is_due_at_once(waiting: list[int]) -> None:
    rows("UPDATE runyard.invocations SET due_at = 'infinity' RETURNING 1")
    wait(waiting[0], "go")
    send_signal("go", None)
    assert rows("SELECT id FROM runyard.invocations WHERE due_at <= now()") == [{"id": waiting[0]}]


def test_a_wait_that_is_registered_again_is_the_same(waiting: list[int]) -> None:
    assert not wait(waiting[0], "go")
    assert not wait(waiting[0], "go")
    assert send_signal("go", 1) is not None
    assert wait(waiting[0], "go")


def test_one_of_two_waits_has_the_signal(waiting: list[int]) -> None:
    assert not wait(waiting[0], "go")
    assert wait(waiting[1], "go")
    assert not wait(waiting[2], "go", replaces=True)
    reached = send_signal("go", 1)
    assert reached is not None
    assert reached[0] == waiting[2]


def test_a_run_that_has_ended_holds_no_signal(waiting: list[int]) -> None:
    wait(waiting[0], "go")
    with database.connection() as connection:
        # As if the wait had been locked when the run ended: it is purged later.
        connection.execute("ALTER TABLE runyard.invocations DISABLE TRIGGER USER")
        connection.execute(
            "UPDATE runyard.invocations SET status = 'failed' WHERE id = %s", (waiting[0],)
        )
        connection.execute("ALTER TABLE runyard.invocations ENABLE TRIGGER USER")
    assert send_signal("go", 1) is None
    assert not wait(waiting[1], "go")
    assert send_signal("go", 1) is not None


@pytest.mark.parametrize("name", ["", "x" * 1_025, "a\0b", "\ud800"])
def test_not_every_text_names_a_signal(name: str) -> None:
    with pytest.raises(InvalidOption, match="1 to 1,024 bytes"):
        send_signal(name, None)


def test_new_messages_are_found_by_their_index(waiting: list[int]) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO runyard.messages (channel, topic, message, xid)"
            " SELECT 'a', 'b', '{}', '3' FROM generate_series(1, 20000)"
        )
        connection.execute("ANALYZE runyard.messages")
        snapshot = connection.execute("SELECT pg_current_snapshot()::text AS now").fetchone()
        assert snapshot is not None
        plan = connection.execute(
            b"EXPLAIN " + statements()["published"], {"since": snapshot["now"], "channels": ["a"]}
        ).fetchall()
        connection.execute("DELETE FROM runyard.messages")
    assert "messages_xid" in str(plan)
