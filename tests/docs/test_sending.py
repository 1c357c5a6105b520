"""The ways of sending events that docs/events.md shows, run as they stand there."""

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from runyard.events import catalog
from runyard.store import database
from runyard.testing import empty_event_table
from tests.conftest import ROOT, use_database

PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def url(server: str) -> str:
    """The URL of a database that an application shares with Runyard."""
    url = use_database(server, "docs_events")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, paid bool DEFAULT false)")
    return url


@pytest.fixture
def page(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the page's code defines; the table of orders is empty, and so is the log."""
    catalog.load()
    monkeypatch.setattr(catalog, "_types", dict(catalog._types))
    names: dict[str, Any] = {"__name__": "example_events"}
    exec(compile(blocks("python"), "docs/events.md", "exec"), names)
    empty_event_table()
    with psycopg.connect(url) as connection:
        connection.execute("TRUNCATE orders")
    return names


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    engine.dispose()


def sent() -> list[str]:
    with database.connection() as connection:
        rows = connection.execute("SELECT name FROM runyard.events ORDER BY id").fetchall()
    return [row["name"] for row in rows]


def test_an_event_is_scheduled_once(page: dict[str, Any]) -> None:
    assert page["remind_tomorrow"](7) == page["remind_tomorrow"](7)
    assert sent() == ["order/reminder.due"]


def test_several_events_are_sent_at_once(page: dict[str, Any]) -> None:
    assert len(page["close_day"]([7, 8])) == 2
    assert sent() == ["order/closed", "order/closed"]


def test_an_order_of_psycopg_that_fails_sends_nothing(page: dict[str, Any], url: str) -> None:
    page["place_order"](url, 7)
    with pytest.raises(psycopg.errors.UniqueViolation):
        page["place_order"](url, 7)
    assert sent() == ["order/placed"]


def test_a_connection_of_sqlalchemy_that_is_rolled_back_sends_nothing(
    page: dict[str, Any], engine: Engine
) -> None:
    with engine.begin() as connection:
        page["import_order"](connection, 7)
    with engine.connect() as connection:
        page["import_order"](connection, 8)
        connection.rollback()
    assert sent() == ["order/placed"]


def test_a_session_sends_when_it_commits(page: dict[str, Any], engine: Engine) -> None:
    with Session(engine) as session:
        page["cancel_order"](session, 7)
    assert sent() == ["order/cancelled"]


def test_an_async_session_sends_when_it_commits(page: dict[str, Any], url: str) -> None:
    asyncio.run(_in_async_session(url, page["pay_order"]))
    assert sent() == ["order/paid"]


async def _in_async_session(url: str, use: Callable[..., Any]) -> None:
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool
    )
    async with AsyncSession(engine) as session:
        await use(session, 7)
    await engine.dispose()


@pytest.mark.usefixtures("page")
def test_sql_sends_with_all_arguments(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(blocks("sql").encode())
        [scheduled] = connection.execute(
            "SELECT idempotency_key, data, ts > now() FROM runyard.events WHERE name LIKE '%.due'"
        )
    assert scheduled == ("remind-7", {"order": 7}, True)
    assert sent() == ["order/placed", "order/reminder.due"]


@pytest.mark.usefixtures("page")
def test_sql_that_fails_sends_nothing(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO orders VALUES (7)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute(blocks("sql").encode())
    assert sent() == []
