"""No database error ends the thread of a heartbeat or of a listener."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

import psycopg
import pytest

from runyard import send
from runyard.engine import batch_claims, batch_leases
from runyard.engine.backoff import Backoff
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.engine.lease import Heartbeat
from runyard.engine.listener import Listener
from runyard.functions.registry import Function
from runyard.processes import workers
from runyard.settings import settings
from runyard.store import database
from tests.conftest import wait_until
from tests.tables import table_away

Injection = Callable[[str, str], AbstractContextManager[None]]


@contextmanager
def _setting(url: str, setting: str, table: str | None) -> Iterator[None]:
    """Change a setting for every new session; with a table, lock it meanwhile."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SET lock_timeout = 0; SET statement_timeout = 0; SET default_transaction_read_only ="
            " off"
        )
        admin.execute(f"ALTER DATABASE store SET {setting}".encode())
        database.close_pool()
        try:
            if table is None:
                yield
            else:
                with admin.transaction():
                    admin.execute(f"LOCK TABLE runyard.{table}".encode())
                    yield
        finally:
            admin.execute(f"ALTER DATABASE store RESET {setting.split()[0]}".encode())
            admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = 'store' AND pid <> pg_backend_pid()"
            )


@contextmanager
def _terminated(url: str, table: str) -> Iterator[None]:
    """Terminate every session in the middle of its statement, and the next one too."""
    stopped = threading.Event()

    def kill() -> None:
        with psycopg.connect(url, autocommit=True) as admin:
            while not stopped.wait(0.05):
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'store'"
                    " AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
                )

    thread = threading.Thread(target=kill)
    with psycopg.connect(url) as admin:
        admin.execute(f"LOCK TABLE runyard.{table}".encode())
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


INJECTIONS: dict[str, Injection] = {
    "QueryCanceled": lambda url, table: _setting(url, "statement_timeout = '50ms'", table),
    "LockNotAvailable": lambda url, table: _setting(url, "lock_timeout = '50ms'", table),
    "ReadOnlySqlTransaction": lambda url, table: _setting(
        url, "default_transaction_read_only = on", None
    ),
    "DatabaseUnavailable": lambda url, table: _terminated(url, table),
    "UndefinedTable": lambda url, table: table_away(url, f"runyard.{table}"),
}


@pytest.mark.parametrize("error", sorted(INJECTIONS))
def test_a_lease_is_renewed_again_after_every_kind_of_error(
    function: Function, store_url: str, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, "run-1")
    heartbeat = Heartbeat()
    lease = heartbeat.start(claim.batch_id, "run-1")
    try:
        with INJECTIONS[error](store_url, "batches"):
            wait_until(lambda: error in caplog.text)
        before = _heartbeat("batches")
        wait_until(lambda: _heartbeat("batches") > before)
    finally:
        heartbeat.stop(claim.batch_id)
    assert not lease.lost.is_set()


@pytest.mark.parametrize("error", sorted(INJECTIONS))
def test_a_worker_says_that_it_is_alive_again_after_every_kind_of_error(
    empty: None,
    store_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
) -> None:
    monkeypatch.setattr(workers, "_BEAT_SECONDS", 0.1)
    monkeypatch.setattr(workers, "_stopping", threading.Event())
    thread = threading.Thread(target=workers._beat)
    thread.start()
    try:
        wait_until(lambda: _heartbeat("workers"))
        with INJECTIONS[error](store_url, "workers"):
            wait_until(lambda: error in caplog.text)
        before = _heartbeat("workers")
        wait_until(lambda: _heartbeat("workers") > before)
    finally:
        workers._stopping.set()
        thread.join()


def test_who_waits_is_woken_again_after_the_listener_could_not_connect(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Listener().subscribe() as woken:
        assert woken.wait(10)
        # Not an error of psycopg: the settings cannot be read for a while.
        monkeypatch.setenv("RUNYARD_PORT", "nonsense")
        settings.cache_clear()
        _end_listeners(store_url)
        wait_until(lambda: "not listening: ValidationError" in caplog.text)
        monkeypatch.undo()
        settings.cache_clear()
        wait_until(lambda: _listeners(store_url))
        woken.clear()
        with database.connection() as connection:
            wait_until(
                lambda: connection.execute("SELECT runyard.wake_v1('greet')") and woken.wait(0.2)
            )


def test_a_run_is_interrupted_although_its_end_could_not_be_announced_at_first(
    function: Function,
) -> None:
    send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, "run-1")
    tries: list[str] = []

    def announce(run_id: str) -> None:
        tries.append(run_id)
        if len(tries) < 3:
            raise psycopg.errors.QueryCanceled("canceling statement due to statement timeout")

    heartbeat = Heartbeat()
    heartbeat.before_stop = announce
    heartbeat.start(claim.batch_id, "run-1")
    batch_leases.request_cancel(claim.batch_id, "run-1")
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(20)
    heartbeat.stop(claim.batch_id)
    assert tries == ["run-1"] * 3


def test_the_end_of_a_run_is_announced_before_it_hears_that_all_is_cancelled(
    function: Function,
) -> None:
    [event_id] = send("greet/requested")
    [claim] = batch_claims.claim(function) or []
    batch_leases.begin(claim.batch_id, "run-1")
    heartbeat = Heartbeat()
    heartbeat.of_threads = True
    heard: list[set[int]] = []
    heartbeat.before_stop = lambda _: heard.append(set(lease.cancelled))
    lease = heartbeat.start(claim.batch_id, "run-1")
    assert cancel(Selection(events=(event_id,))) == 1
    assert lease.stopped.wait(20)
    heartbeat.stop(claim.batch_id)
    assert heard == [set()]
    assert len(lease.cancelled) == 1


def test_an_error_is_logged_once_and_its_waits_grow_to_the_maximum(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backoff = Backoff(logging.getLogger("runyard.test"), "no heartbeat", 5.0)
    waits = [backoff.failed(ValueError("one")) for _ in range(20)]
    assert [record.getMessage() for record in caplog.records] == [
        "no heartbeat: ValueError (one); trying again"
    ]
    assert waits == sorted(waits)
    assert waits[0] <= 0.5
    assert waits[-1] == 5.0
    backoff.succeeded()
    assert backoff.failed(KeyError("two")) == waits[0]
    assert [record.getMessage() for record in caplog.records][1:] == [
        "no heartbeat: KeyError ('two'); trying again"
    ]


def _heartbeat(table: str) -> datetime | None:
    with database.connection() as connection:
        row = connection.execute(
            f"SELECT max(heartbeat_at) AS at FROM runyard.{table}".encode()
        ).fetchone()
    return row["at"] if row else None  # type: ignore[return-value]


_LISTENING = (
    "FROM pg_stat_activity WHERE datname = 'store' AND application_name = 'runyard listener'"
)


def _end_listeners(url: str) -> None:
    with psycopg.connect(url) as admin:
        admin.execute(f"SELECT pg_terminate_backend(pid) {_LISTENING}".encode())


def _listeners(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as admin:
        return admin.execute(f"SELECT pid {_LISTENING}".encode()).fetchall()
