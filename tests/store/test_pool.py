"""The pool of connections of a process."""

from datetime import UTC, datetime

import psycopg

from runyard import clock
from runyard.store import database
from tests.tables import rows


def test_a_session_that_the_server_has_ended_is_replaced(store_url: str) -> None:
    [before] = rows("SELECT pg_backend_pid() AS pid")
    with psycopg.connect(store_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (before["pid"],))
    [after] = rows("SELECT pg_backend_pid() AS pid")
    assert after != before


def test_a_session_has_the_real_time_again_after_a_test_that_froze_it(store_url: str) -> None:
    clock.freeze(datetime(2040, 1, 1, tzinfo=UTC))
    [frozen] = rows("SELECT runyard.now_v1() AS time")
    clock.freeze(None)
    with database.connection() as one, database.connection() as other:
        real = "SELECT runyard.now_v1() = pg_catalog.now() AS is_real"
        times = [each.execute(real.encode()).fetchone() for each in (one, other)]
    assert frozen == {"time": datetime(2040, 1, 1, tzinfo=UTC)}
    assert times == [{"is_real": True}, {"is_real": True}]
