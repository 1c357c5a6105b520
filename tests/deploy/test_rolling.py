"""A rolling deploy under load: no event is lost, no step is done twice, and nothing is stuck."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from runyard.engine import api_keys
from runyard.store import database
from tests.conftest import use_database, wait_until
from tests.deploy.roles import Deployment, Role, deployed
from tests.ports import free_port
from tests.servers import redis
from tests.tables import rows

pytestmark = pytest.mark.slow
_PER_SECOND = 50
_SENDERS = 5
# How many events come while the new version of a role runs beside the old one.
_BESIDE = 150
_EVENTS = ("steady", "limited", "grows", "removed", "renamed", "added")

_BOTH = """
from runyard import Concurrency, Item, Run, definitions, function, step
from runyard.store import database

def _note(item: Item, what: str) -> None:
    with database.connection() as connection:
        connection.execute("INSERT INTO effects VALUES (%s, %s, %s)", (item.id, what, VERSION))

@step
def one(item: Item) -> None:
    _note(item, "one")

@step
def two(item: Item) -> None:
    _note(item, "two")

@function("rolling/steady")
def steady(run: Run) -> None:
    one(run)
    run.sleep("rest", "3s")
    two(run)
"""
V1 = f"""VERSION = "v1"
{_BOTH}
@function("rolling/limited", concurrency=Concurrency(1))
def limited(run: Run) -> None:
    one(run)

@function("rolling/grows")
def grows(run: Run) -> None:
    one(run)

@function("rolling/removed")
def removed(run: Run) -> None:
    one(run)

@function("rolling/renamed")
def old_name(run: Run) -> None:
    one(run)

defs = definitions(steady, limited, grows, removed, old_name)
"""
V2 = f"""VERSION = "v2"
{_BOTH}
@function("rolling/limited", concurrency=Concurrency(2, key="data.key"))
def limited(run: Run) -> None:
    one(run)

@function("rolling/grows")
def grows(run: Run) -> None:
    one(run)
    two(run)

@function("rolling/added")
def added(run: Run) -> None:
    one(run)

@function("rolling/renamed")
def new_name(run: Run) -> None:
    one(run)

defs = definitions(steady, limited, grows, added, new_name)
"""


class Senders:
    """Clients that together send 50 events a second by HTTP until they are stopped.

    Attributes
    ----------
    accepted
        The ids of the events that were answered with 200.
    refused
        What the requests got that failed, and were sent again.
    """

    def __init__(self, key: str, port: int) -> None:
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self._ports = (port,)
        # The ports that each of them found when it began its last request.
        self._found: dict[int, tuple[int, ...]] = {}
        self._key = key
        self._stopped = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._send_all) for _ in range(_SENDERS)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, once all that was begun is accepted."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def turn_to(self, *ports: int) -> None:
        """Let them find the public API at these ports alone, as behind a load balancer.

        Returns when no request to another port is under way.
        """
        self._ports = ports
        wait_until(lambda: set(self._found.values()) == {ports})

    def _send_all(self) -> None:
        due = time.monotonic()
        with httpx.Client(timeout=10) as client:
            while not self._stopped.is_set():
                number = next(self._numbers)
                name = _EVENTS[number % len(_EVENTS)]
                self._send(client, number, f"rolling/{name}")
                due += _SENDERS / _PER_SECOND
                self._stopped.wait(max(0.0, due - time.monotonic()))

    def _send(self, client: httpx.Client, number: int, name: str) -> None:
        event = {"id": str(number), "name": name, "data": {"key": 1}}
        until = time.monotonic() + 30
        for attempt in itertools.count():
            ports = self._found[threading.get_ident()] = self._ports
            url = f"http://127.0.0.1:{ports[(number + attempt) % len(ports)]}/e/{self._key}"
            try:
                answer = client.post(url, json=[event])
            except httpx.TransportError as error:
                self.refused.append(repr(error))
            else:
                if answer.status_code == 200:
                    self.accepted += answer.json()["ids"]
                    return
                self.refused.append(f"{answer.status_code}: {answer.text}")
            assert time.monotonic() < until, event
            time.sleep(0.05)


class Rollout:
    """The deployment, rolled from v1 to v2 while events come."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._ports = free_port(), free_port()
        _, key = api_keys.create("sender", ("send",), per_second=100_000)
        self.senders = Senders(key, self._ports[0])

    def run(self) -> None:
        """Start v1, send, and replace each role in its order."""
        start = self._deployment
        code = start.start_code("v1")
        daemon = start.start_daemon("v1")
        web = start.start_web("v1", self._ports[0])
        workers = [start.start_worker("v1"), start.start_worker("v1")]
        self.senders.start()
        try:
            self._beside()
            code = self._replace_code(code)
            daemon.stop()
            daemon = start.start_daemon("v2")
            self._beside()
            workers = [self._replace(worker, start.start_worker("v2")) for worker in workers]
            self._replace_web(web)
            self._beside()
        finally:
            self.senders.stop()

    def _replace_code(self, old: Role) -> Role:
        """Replace the code server; the old one restarts once beside the new one."""
        new = self._deployment.start_code("v2")
        old.stop()
        old = self._deployment.start_code("v1")
        return self._replace(old, new)

    def _replace_web(self, old: Role) -> None:
        """Replace the public API; the old one gets no more requests before it is stopped."""
        self._deployment.start_web("v2", self._ports[1])
        self.senders.turn_to(*self._ports)
        self._beside()
        self.senders.turn_to(self._ports[1])
        old.stop()

    def _replace(self, old: Role, new: Role) -> Role:
        self._beside()
        old.stop()
        return new

    def _beside(self) -> None:
        """Wait while events come."""
        enough = len(self.senders.accepted) + _BESIDE
        wait_until(lambda: len(self.senders.accepted) >= enough, 60)


@pytest.fixture(scope="module")
def rollout(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    """A rollout that has ended, and nothing is left to run."""
    use_database(server, "rolling")
    with database.connection() as connection:
        connection.execute("CREATE TABLE effects (invocation bigint, step text, version text)")
    folder = tmp_path_factory.mktemp("rolling")
    with redis(folder) as broker, deployed(folder, RUNYARD_BROKER_URL=broker.url) as deployment:
        deployment.add_version("v1", V1)
        deployment.add_version("v2", V2)
        rollout = Rollout(deployment)
        rollout.run()
        wait_until(lambda: not open_invocations(), 60)
        yield rollout


def open_invocations() -> list[dict[str, object]]:
    """What is to end: all but what functions have left that are gone."""
    return rows(
        "SELECT function, status, count(*) FROM runyard.invocations"
        " WHERE NOT (function IN ('removed', 'old_name') AND status = 'queued')"
        " AND status NOT IN ('succeeded', 'failed', 'cancelled', 'skipped') GROUP BY 1, 2"
    )


def started(name: str) -> Counter[tuple[str, ...]]:
    """The events of a name by the functions that they have started."""
    found = rows(
        "SELECT array_remove(array_agg(function ORDER BY function), NULL) AS functions"
        " FROM runyard.events LEFT JOIN runyard.invocations ON event_id = events.id"
        " WHERE name = %s GROUP BY events.id",
        f"rolling/{name}",
    )
    return Counter(tuple(row["functions"]) for row in found)


def test_what_was_accepted_is_there_once_and_nothing_else(rollout: Rollout) -> None:
    stored = rows("SELECT id FROM runyard.events WHERE name LIKE 'rolling/%%'")
    assert sorted(rollout.senders.accepted) == sorted(row["id"] for row in stored)


def test_no_request_fails_for_the_deploy(rollout: Rollout) -> None:
    assert rollout.senders.refused == []


@pytest.mark.parametrize("name", ["steady", "limited", "grows"])
def test_what_both_versions_have_is_started_by_every_event(rollout: Rollout, name: str) -> None:
    assert set(started(name)) == {(name,)}


def test_what_was_renamed_is_started_once_under_one_of_its_names(rollout: Rollout) -> None:
    assert set(started("renamed")) == {("old_name",), ("new_name",)}


@pytest.mark.parametrize(("name", "order"), [("added", [False, True]), ("removed", [True, False])])
def test_what_comes_or_goes_is_started_from_the_deploy_on_or_until_then(
    rollout: Rollout, name: str, order: list[bool]
) -> None:
    found = rows(
        "SELECT EXISTS (SELECT FROM runyard.invocations WHERE event_id = events.id) AS starts"
        " FROM runyard.events WHERE name = %s ORDER BY received_at",
        f"rolling/{name}",
    )
    assert [starts for starts, _ in itertools.groupby(row["starts"] for row in found)] == order


def test_every_invocation_has_succeeded_except_what_functions_have_left_that_are_gone(
    rollout: Rollout,
) -> None:
    found = rows("SELECT function, status FROM runyard.invocations GROUP BY 1, 2")
    others = {(row["function"], row["status"]) for row in found if row["status"] != "succeeded"}
    assert others <= {("removed", "queued"), ("old_name", "queued")}


def test_no_attempt_is_counted_for_the_deploy(rollout: Rollout) -> None:
    again = rows("SELECT function, attempt FROM runyard.invocations WHERE attempt > 1")
    assert again == []


def test_no_step_is_done_twice(rollout: Rollout) -> None:
    assert rows("SELECT invocation, step FROM effects GROUP BY 1, 2 HAVING count(*) > 1") == []


def test_every_step_of_what_has_succeeded_is_done(rollout: Rollout) -> None:
    missing = rows(
        "SELECT function, count(*) FROM runyard.invocations WHERE status = 'succeeded'"
        " AND NOT EXISTS (SELECT FROM effects WHERE invocation = invocations.id AND step = 'one')"
        " OR (function = 'steady' AND NOT EXISTS ("
        "    SELECT FROM effects WHERE invocation = invocations.id AND step = 'two')) GROUP BY 1"
    )
    assert missing == []


def test_the_new_step_is_done_by_the_new_version(rollout: Rollout) -> None:
    new = rows(
        "SELECT count(*) FROM effects JOIN runyard.invocations ON id = invocation"
        " WHERE function = 'grows' AND step = 'two' AND version = 'v2'"
    )
    assert new[0]["count"] > 0


def test_the_functions_are_those_of_the_new_version(rollout: Rollout) -> None:
    active = rows("SELECT name FROM runyard.functions WHERE active ORDER BY name")
    assert [row["name"] for row in active] == ["added", "grows", "limited", "new_name", "steady"]
