"""Any process is killed in the middle of 200 runs of an application's function: all of them end.

What ran is judged by the ledger that the application writes, in which a step has a line each time
it begins.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from runyard import Event, send
from runyard.processes.stack import Stack
from runyard.store.embedded import start_embedded
from runyard.store.queries import Row
from tests.conftest import wait_until
from tests.process_tree import kill_tree
from tests.sdk_apps import SdkApp
from tests.stack.conftest import address
from tests.tables import rows

RUNS = 200
STEPS = ("one", "two", "three")


class CountingApp(SdkApp):
    """The application `count`, which has registered."""

    def __init__(self, folder: Path) -> None:
        super().__init__("count", None, folder / "log", INNGEST_DEV=address())
        self.file = folder / "ledger"
        self.start()
        httpx.put(self.url, json={"url": self.url}, timeout=30).raise_for_status()

    def start(self) -> None:
        """Start its process, which goes on in the same ledger."""
        self.count(self.file)

    def begun(self) -> Counter[tuple[int, str]]:
        """How often each step of each run has begun."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return Counter((int(n), step) for n, step in map(str.split, lines))


@pytest.fixture
def app(stack: Stack, tmp_path: Path) -> Iterator[CountingApp]:
    """The application, which has a process that calls it."""
    made = CountingApp(tmp_path)
    wait_until(lambda: rows("SELECT 1 FROM runyard.workers WHERE remote"), 60)
    yield made
    made.stop()
    stack.wait_ready()
    httpx.delete(address("/fn/remove"), params={"url": made.url}).raise_for_status()


def kill_worker_and_caller(stack: Stack, _: CountingApp) -> None:
    kill_tree(stack.pid("worker"))


def kill_worker(stack: Stack, _: CountingApp) -> None:
    psutil.Process(stack.pid("worker")).kill()


def kill_caller(stack: Stack, _: CountingApp) -> None:
    children = psutil.Process(stack.pid("worker")).children()
    [caller] = [child for child in children if "caller" in child.cmdline()]
    caller.kill()


def kill_application(_: Stack, app: CountingApp) -> None:
    app.stop()
    waiting_for_another_attempt = (
        "SELECT FROM runyard.invocations WHERE status = 'queued' AND attempt > 0"
    )
    wait_until(lambda: rows(waiting_for_another_attempt))
    app.start()


def kill_web(stack: Stack, _: CountingApp) -> None:
    kill_tree(stack.pid("web"))


def restart_database(stack: Stack, _: CountingApp) -> None:
    folder = stack.settings.postgres_dir
    before = len(stack.log.read_text())
    kill_tree(int((folder / "postmaster.pid").read_text().splitlines()[0]))
    # Somebody has missed it.
    wait_until(lambda: "DatabaseUnavailable" in stack.log.read_text()[before:])
    start_embedded(folder)


def ends(ids: Sequence[str]) -> list[Row]:
    """The runs that have ended."""
    return rows(
        "SELECT status, output FROM runyard.invocations"
        " WHERE event_id = ANY (%s) AND status IN ('succeeded', 'failed', 'cancelled')",
        ids,
    )


@pytest.mark.parametrize(
    "kill",
    [
        kill_worker_and_caller,
        kill_worker,
        kill_caller,
        kill_application,
        kill_web,
        restart_database,
    ],
)
def test_200_runs_end_and_no_kept_step_runs_again(
    stack: Stack, app: CountingApp, kill: Callable[[Stack, CountingApp], None]
) -> None:
    ids = send([Event("count/up", {"n": n}) for n in range(RUNS)])
    wait_until(lambda: app.begun().total() >= RUNS * 3 / 2, 60)
    kept = rows(
        "SELECT (data->>'n')::int AS n, step FROM runyard.steps JOIN runyard.invocations"
        " ON invocations.id = invocation_id JOIN runyard.events ON events.id = event_id"
        " WHERE event_id = ANY (%s)",
        ids,
    )
    kill(stack, app)
    wait_until(lambda: len(ends(ids)) == RUNS, 60)

    ended = ends(ids)
    assert {each["status"] for each in ended} == {"succeeded"}
    assert sorted(each["output"] for each in ended) == list(range(RUNS))
    begun = app.begun()
    assert {begun[row["n"], row["step"]] for row in kept} == {1}
    # Each step once, and no more than the one that was open a second time.
    assert {sum(begun[n, step] for step in STEPS) for n in range(RUNS)} <= {3, 4}
