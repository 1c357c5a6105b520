"""A database of its own for the SQL tests, emptied before each."""

from collections.abc import Iterator

import psycopg
import pytest

from runyard.functions import registry
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.store import database
from tests.conftest import use_database


@pytest.fixture(scope="package")
def store_url(server: str) -> str:
    """The URL of the database."""
    return use_database(server, "store")


@pytest.fixture(autouse=True)
def empty(store_url: str) -> Iterator[None]:
    """Begin with empty tables; leave the registered functions as they were."""
    before = registry._functions
    with database.connection() as connection:
        tables = (
            "events, functions, triggers, invocations, steps, batches, workers, waits,"
            " flow_control_state, bulks, keys, progress, failed_launches"
        )
        connection.execute(
            f"TRUNCATE {', '.join(f'runyard.{table}' for table in tables.split(', '))} RESTART IDENTITY".encode()
        )
    yield
    registry._functions = before


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Function:
    """A registered function `greet` on `greet/requested`, with batches of up to 10."""
    made = Function(
        "greet",
        "greet_job",
        ("greet/requested",),
        max_batch=10,
        retry=Retry(attempts=3, delays=(0.0,), jitter=0),
    )
    monkeypatch.setattr(registry, "_functions", {"greet": made})
    registry.publish()
    return made


@pytest.fixture
def other_connection(store_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection of an application, not in autocommit mode."""
    with psycopg.connect(store_url) as connection:
        yield connection
