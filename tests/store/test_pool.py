"""The pool of connections of a process."""

import psycopg

from tests.tables import rows


def test_a_session_that_the_server_has_ended_is_replaced(store_url: str) -> None:
    [before] = rows("SELECT pg_backend_pid() AS pid")
    with psycopg.connect(store_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (before["pid"],))
    [after] = rows("SELECT pg_backend_pid() AS pid")
    assert after != before
