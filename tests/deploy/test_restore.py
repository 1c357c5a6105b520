"""A database that is restored from a dump goes on where the dump was taken."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from dagster import DagsterInstance

from runyard import Item, Run, definitions, function, step
from runyard.dagster_adapter import reaper
from runyard.engine import batch_leases
from runyard.functions import registry
from runyard.processes.migrate import migrate
from runyard.settings import settings
from runyard.store import database
from runyard.store.embedded_programs import client_program
from runyard.testing import Yard
from tests.conftest import drop_database, use_database
from tests.tables import rows

effects: list[str] = []


@step
def charge(item: Item) -> str:
    effects.append(f"charge {item.data['order']}")
    return "charged"


@step
def thank(item: Item) -> None:
    effects.append(f"thank {item.data['order']}")


@function("restored/at-once")
def at_once(run: Run) -> None:
    charge(run)
    thank(run)


@function("restored/later")
def later(run: Run) -> None:
    charge(run)
    run.sleep("rest", "3d")
    thank(run)


DEFINITIONS = definitions(at_once, later)


def program(name: str) -> Path:
    """A program of the embedded PostgreSQL, which is as new as its server."""
    path = client_program(name)
    assert path is not None
    return path


class Copies:
    """Two databases: the one that is dumped, and the one that the dump is restored into."""

    def __init__(self, server: str, folder: Path) -> None:
        self._server = server
        self._dump = folder / "dump"
        effects.clear()
        self._url = use_database(server, "dumped")

    def dump(self) -> None:
        """Dump the first."""
        command = [program("pg_dump"), "--format=custom", f"--file={self._dump}", self._url]
        subprocess.run(command, check=True, capture_output=True)

    def restore(self) -> None:
        """Restore the dump into the second, and use that from now on."""
        drop_database(self._server, "restored")
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute("CREATE DATABASE restored")
        url = self._server.replace("/runyard?", "/restored?")
        command = [program("pg_restore"), "--exit-on-error", f"--dbname={url}", self._dump]
        subprocess.run(command, check=True, capture_output=True)
        database.close_pool()
        os.environ["DATABASE_URL"] = url
        settings.cache_clear()
        migrate()


@pytest.fixture
def copies(server: str, tmp_path: Path) -> Iterator[Copies]:
    """An empty database, whose dump can be restored into another."""
    ours = {"at_once", "later"}
    with registry.use(*(each for each in registry.functions() if each.name in ours)):
        yield Copies(server, tmp_path)


def statuses() -> list[str]:
    return [row["status"] for row in rows("SELECT status FROM runyard.invocations ORDER BY id")]


def test_what_was_done_before_the_dump_is_not_done_again(copies: Copies) -> None:
    with Yard(DEFINITIONS) as yard:
        yard.send("restored/at-once", {"order": 1})
        yard.send("restored/later", {"order": 2})
        yard.work()
        copies.dump()
        copies.restore()
        yard.work()
        assert sorted(effects) == ["charge 1", "charge 2", "thank 1"]
        yard.advance("3d")
    assert sorted(effects) == ["charge 1", "charge 2", "thank 1", "thank 2"]
    assert statuses() == ["succeeded", "succeeded"]


def test_what_was_done_after_the_dump_is_done_again(copies: Copies) -> None:
    with Yard(DEFINITIONS) as yard:
        yard.send("restored/at-once", {"order": 1})
        copies.dump()
        yard.work()
        copies.restore()
        yard.work()
    assert sorted(effects) == ["charge 1", "charge 1", "thank 1", "thank 1"]


def test_an_event_after_the_dump_is_gone_and_can_be_sent_again(copies: Copies) -> None:
    with Yard(DEFINITIONS) as yard:
        copies.dump()
        yard.send("restored/at-once", {"order": 1}, id="order-1")
        copies.restore()
        yard.work()
        assert statuses() == []
        assert effects == []
        yard.send("restored/at-once", {"order": 1}, id="order-1")
        yard.work()
    assert statuses() == ["succeeded"]


def test_an_idempotency_key_from_before_the_dump_is_still_taken(copies: Copies) -> None:
    with Yard(DEFINITIONS) as yard:
        yard.send("restored/at-once", {"order": 1}, id="order-1")
        yard.work()
        copies.dump()
        copies.restore()
        yard.send("restored/at-once", {"order": 1}, id="order-1")
        yard.work()
    assert effects == ["charge 1", "thank 1"]


def test_what_ran_during_the_dump_is_run_again_once_its_lease_is_over(copies: Copies) -> None:
    with Yard(DEFINITIONS) as yard:
        yard.send("restored/at-once", {"order": 1})
        [batch] = yard.claim("at_once")
        batch_leases.begin(batch, "a-run-of-the-first-database")
        copies.dump()
        copies.restore()
        assert statuses() == ["running"]
        rows("UPDATE runyard.batches SET heartbeat_at = now() - interval '1 h' RETURNING 1")
        with DagsterInstance.ephemeral() as instance:
            reaper.reap(instance, batch_leases.overdue())
        yard.advance("1m")
    assert statuses() == ["succeeded"]
