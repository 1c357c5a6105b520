"""A real PostgreSQL for all tests, and for some of them a whole stack and a fake SendGrid."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fake_sendgrid import FakeSendGrid
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
# Their tests need a browser, Redis, RabbitMQ, PgBouncer or the whole stack, or take minutes.
SLOW_FOLDERS = {"faults", "http", "security", "stack"}
# A variable of the developer's environment with one of these prefixes must not reach the tests.
_SETTINGS = (
    "AI_",
    "ANALYTICS_",
    "CONTACT_",
    "GEMINI_",
    "INNGEST_",
    "MAIL_",
    "MEDIA_",
    "NOTIFY_",
    "OPENAI_",
    "OTEL_",
    "RUNYARD_",
    "SENDGRID_",
    "SUPABASE_",
    "SYNC_",
)
# npm may need the developer's proxy; the servers and made-up hosts of the tests are none of it.
_NO_PROXY = "127.0.0.1,localhost,.example,.invalid"
_data = Path(tempfile.mkdtemp(prefix="ry-", dir="/tmp"))
# Outside the data folder, which is private: started by root, the server runs as another user.
_postgres = Path(tempfile.mkdtemp(prefix="ryp-", dir="/tmp"))

for _name in [name for name in os.environ if name.startswith(_SETTINGS)]:
    del os.environ[_name]
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), _NO_PROXY)))
# Processes of the tests are to print as those of users do.
os.environ.pop("PYTHONUNBUFFERED", None)
os.environ.update(
    DAGSTER_HOME=str(ROOT),
    RUNYARD_HOME=str(ROOT),
    RUNYARD_DATA_DIR=str(_data),
    RUNYARD_POSTGRES_DIR=str(_postgres),
    RUNYARD_PORT=str(free_port()),
    RUNYARD_CODE="tests.code",
    RUNYARD_CONCURRENCY="2",
    RUNYARD_LEASE_SECONDS="10",
    RUNYARD_DISCOVER_APPS="0",
    DATABASE_URL="postgresql://not-yet",
)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background lets them, and all that they start, ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


_STACK_MODULES = (
    "deploy/test_draining",
    "deploy/test_layout",
    "deploy/test_log_managers",
    "deploy/test_rolling",
    "deploy/test_run_output",
    "packaging/test_first_project",
)


class FolderByFolder(LoadScopeScheduling):
    """Gives each of the two test processes a whole folder at a time.

    The tests of a folder share databases and stacks. Those that start whole stacks count as one
    folder: two cores cannot carry two at once.
    """

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        starts_stacks = folder == "faults" or any(module in nodeid for module in _STACK_MODULES)
        return "stack" if starts_stacks else folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderByFolder:
    """How pytest-xdist distributes the tests."""
    return FolderByFolder(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the slow folders as slow."""
    for item in items:
        if SLOW_FOLDERS.intersection(item.path.relative_to(ROOT).parts[1:2]):
            item.add_marker("slow")


from runyard.functions import registry  # noqa: E402
from runyard.functions.registry import Function  # noqa: E402
from runyard.processes.migrate import migrate  # noqa: E402
from runyard.processes.stack import Stack  # noqa: E402
from runyard.settings import settings  # noqa: E402
from runyard.store import database  # noqa: E402
from runyard.store.embedded import delete_embedded, start_embedded  # noqa: E402
from runyard.store.embedded_access import ROLE, SUPERUSER  # noqa: E402
from runyard.store.queries import fetch_one  # noqa: E402

Publish = Callable[..., None]


@pytest.fixture(autouse=True)
def usual_umask() -> None:
    """The default umask: the command line and a stack set a private one for the whole process."""
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
    """Create an empty database, migrate it, and make this process use it."""
    drop_database(server, name)
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = server.replace("/runyard?", f"/{name}?")
    database.close_pool()
    os.environ["DATABASE_URL"] = url
    settings.cache_clear()
    migrate()
    return url


def drop_database(server: str, name: str) -> None:
    """Drop a database, if there is one, whoever is connected to it."""
    # Only a superuser may also end the processes of autovacuum.
    superuser = server.replace(f"//{ROLE}@", f"//{SUPERUSER}@")
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sendgrid() -> Iterator[FakeSendGrid]:
    """A fake of SendGrid's API that checks the requests it gets."""
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
def publish_functions() -> Iterator[Publish]:
    """Publish these functions in place of all others; the former ones return after the test."""
    with ExitStack() as stack:

        def publish(*functions: Function) -> None:
            stack.enter_context(registry.use(*functions))
            registry.publish()

        yield publish


@pytest.fixture
def effects() -> Path:
    """The folder where the steps of the test functions write a line each time they run."""
    return _data / "effects"


def event(event_id: str) -> dict[str, Any]:
    """An event, with its invocations and their steps."""
    with database.connection() as connection:
        row = fetch_one(connection, "recent_events", id=event_id, name=None, limit=1)
    assert row is not None, f"event {event_id} is lost"
    return row


def wait_until(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until `what()` is true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what()!r}")


def settled(event_id: str, seconds: float = 30.0) -> dict[str, Any]:
    """Wait until all invocations of an event are final; return the last."""

    def final_invocation() -> dict[str, Any] | None:
        invocations = event(event_id)["invocations"]
        statuses = {invocation["status"] for invocation in invocations}
        is_final = invocations and statuses <= {"succeeded", "failed", "cancelled"}
        return invocations[-1] if is_final else None

    return wait_until(final_invocation, seconds)
