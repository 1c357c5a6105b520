"""A real PostgreSQL for all tests, and for the stack and fault tests the whole stack with a fake SendGrid behind it."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fake_sendgrid import FakeSendGrid
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
_data = Path(tempfile.mkdtemp(prefix="ry-", dir="/tmp"))
# Beside the data folder, which is this user's alone: where the tests run as root, the server runs as another user.
_postgres = Path(tempfile.mkdtemp(prefix="ryp-", dir="/tmp"))


for _name in [
    name
    for name in os.environ
    if name.startswith(
        (
            "RUNYARD_",
            "SENDGRID_",
            "MAIL_",
            "GEMINI_",
            "OPENAI_",
            "AI_",
            "MEDIA_",
            "SYNC_",
            "ANALYTICS_",
            "NOTIFY_",
            "SUPABASE_",
            "INNGEST_",
            "CONTACT_",
        )
    )
]:
    del os.environ[_name]
os.environ.update(
    DAGSTER_HOME=str(ROOT),
    RUNYARD_HOME=str(ROOT),
    RUNYARD_DATA_DIR=str(_data),
    RUNYARD_POSTGRES_DIR=str(_postgres),
    RUNYARD_PORT=str(free_port()),
    RUNYARD_CODE="tests.code",
    RUNYARD_CONCURRENCY="2",
    RUNYARD_LEASE_SECONDS="10",
    DATABASE_URL="postgresql://not-yet",
)


class FolderByFolder(LoadScopeScheduling):
    """Tests of a folder share databases and stacks: two processes take a folder each, never half of one. There is one whole stack at a time: two cores carry no two."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        return "stack" if folder == "faults" else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderByFolder:
    """How pytest-xdist gives tests to its processes."""
    return FolderByFolder(config, log)


from runyard.processes.migrate import migrate  # noqa: E402
from runyard.processes.stack import Stack  # noqa: E402
from runyard.settings import settings  # noqa: E402
from runyard.store import database  # noqa: E402
from runyard.store.embedded import delete_embedded, start_embedded  # noqa: E402
from runyard.store.queries import fetch_one  # noqa: E402


@pytest.fixture(autouse=True)
def usual_umask() -> None:
    """Others can read what a test writes, as is usual: the command line, and a stack, close this process's files for good."""
    os.umask(0o022)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a running PostgreSQL server."""
    url = start_embedded(_postgres)
    yield url
    database.close_pool()
    delete_embedded(_postgres)
    shutil.rmtree(_data, ignore_errors=True)


def use_database(server: str, name: str) -> str:
    """Make an empty database, migrate it, and let this process use it."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    url = server.replace("/runyard?", f"/{name}?")
    database.close_pool()
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()
    migrate()
    return url


@pytest.fixture(scope="session")
def sendgrid() -> Iterator[FakeSendGrid]:
    """A fake of SendGrid's API that checks what it is sent."""
    with FakeSendGrid() as fake:
        yield fake


@pytest.fixture(scope="session")
def stack(server: str, sendgrid: FakeSendGrid) -> Iterator[Stack]:
    """The whole stack, up and ready."""
    use_database(server, "stack")
    os.environ.update(
        SENDGRID_API_KEY=sendgrid.key,
        SENDGRID_API_HOST=sendgrid.url,
        MAIL_FROM="Runyard <mail@example.com>",
        CONTACT_TO="staff@example.com",
        RUNYARD_EFFECTS=str(_data / "effects"),
    )
    settings.cache_clear()
    (_data / "effects").mkdir(exist_ok=True)
    with Stack(quiet=True) as running:
        yield running


@pytest.fixture
def effects() -> Path:
    """The folder where the steps of the test functions leave a line for each time they ran."""
    return _data / "effects"


def event(event_id: str) -> dict[str, Any]:
    """An event with its invocations and steps."""
    with database.connection() as connection:
        row = fetch_one(connection, "recent_events", id=event_id, name=None, limit=1)
    assert row is not None, f"event {event_id} is lost"
    return row


def wait_until(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `what()` is true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what()!r}")


def settled(event_id: str, seconds: float = 30.0) -> dict[str, Any]:
    """Wait until the only invocation of an event is final; return it."""

    def look() -> dict[str, Any] | None:
        found = event(event_id)["invocations"]
        return (
            found[-1]
            if found and all(one["status"] in ("succeeded", "failed", "cancelled") for one in found)
            else None
        )

    return wait_until(look, seconds)
