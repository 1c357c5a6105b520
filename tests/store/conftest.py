"""A separate database for the SQL tests, emptied before each."""

from collections.abc import Iterator

import psycopg
import pytest

from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from tests.conftest import Publish, use_database
from tests.tables import empty_tables


@pytest.fixture(scope="package")
def store_url(server: str) -> str:
    """The URL of the database."""
    return use_database(server, "store")


@pytest.fixture(autouse=True)
def empty(store_url: str) -> None:
    """Begin with empty tables."""
    empty_tables(
        "runyard.workers",
        "runyard.keys",
        "runyard.failed_launches",
        "runyard.apps",
        "runyard.app_functions",
    )


@pytest.fixture
def function(empty: None, publish_functions: Publish) -> Function:
    """A published function `greet` on `greet/requested`, with batches of up to 10."""
    greet = Function(
        "greet",
        "greet_job",
        ("greet/requested",),
        max_batch=10,
        retry=Retry(attempts=3, delays=(0.0,), jitter=0),
    )
    publish_functions(greet)
    return greet


@pytest.fixture
def other_connection(store_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """An application's connection, not in autocommit mode."""
    with psycopg.connect(store_url) as connection:
        yield connection
