"""What a run prints on one host is shown by the UI of another: all they share is PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from runyard import send
from tests.conftest import settled, use_database, wait_until
from tests.deploy.roles import Deployment, Role, deployed
from tests.ports import free_port
from tests.servers import redis
from tests.tables import rows

pytestmark = pytest.mark.slow
CODE = """
import subprocess
import sys
import time
from pathlib import Path
from runyard import Item, definitions, function

@function("output/wanted", max_batch=1)
def talk(item: Item) -> None:
    if item.data.get("silent"):
        return
    print("begun")
    print("begun with a warning", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo a child; echo a child warns >&2"], check=True)
    while not Path(item.data["gate"]).exists():
        time.sleep(0.05)
    print("x" * item.data.get("size", 0))
    print("the end")

defs = definitions(talk)
"""
_EVENTS = """query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
    ... on LogsCapturedEvent { fileKey } } } } }"""
_LOGS = """query($key: [String!]!, $cursor: String) {
    capturedLogs(logKey: $key, cursor: $cursor) { stdout stderr cursor } }"""
_METADATA = "query($key: [String!]!) { capturedLogsMetadata(logKey: $key) { stdoutDownloadUrl } }"


class Web:
    """The Dagster UI of a host."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Query Dagster's GraphQL API."""
        body = {"query": query, "variables": variables}
        answer = httpx.post(f"{self._url}/graphql", json=body, timeout=30).json()
        assert "errors" not in answer, answer
        content: dict[str, Any] = answer["data"]
        return content

    def key(self, run_id: str) -> list[str]:
        """The key of what a run prints."""

        def file_key() -> str | None:
            events = self.ask(_EVENTS, run=run_id)["logsForRun"]["events"]
            return next((each["fileKey"] for each in events if each), None)

        return [run_id, "compute_logs", wait_until(file_key)]

    def output(self, key: list[str], cursor: str | None = None) -> dict[str, str]:
        """What is shown of a run."""
        shown = self.ask(_LOGS, key=key, cursor=cursor)["capturedLogs"]
        return {name: text or "" for name, text in shown.items()}

    def download(self, key: list[str]) -> httpx.Response:
        """The answer of the link that the UI has to standard output."""
        path = self.ask(_METADATA, key=key)["capturedLogsMetadata"]["stdoutDownloadUrl"]
        return httpx.get(self._url + path, timeout=30)


class Started:
    """An event whose function prints something, and then waits until it is let go."""

    def __init__(self, folder: Path, **data: Any) -> None:
        self._gate = folder / "gate"
        [self.id] = send("output/wanted", {"gate": str(self._gate), **data})

    @property
    def run_id(self) -> str:
        """Its run."""
        find = "SELECT run_id FROM runyard.invocations WHERE event_id = %s AND run_id IS NOT NULL"
        return str(wait_until(lambda: rows(find, self.id), 60)[0]["run_id"])

    def let_go(self) -> str:
        """Let it end; return its status."""
        self._gate.touch()
        return str(settled(self.id)["status"])


@pytest.fixture(scope="module")
def deployment(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Code server and daemon, on hosts of their own."""
    use_database(server, "run_output")
    folder = tmp_path_factory.mktemp("run_output")
    with redis(folder) as broker, deployed(folder, RUNYARD_BROKER_URL=broker.url) as made:
        made.add_version("only", CODE)
        made.start_code("only")
        made.start_daemon("only")
        yield made


@pytest.fixture(scope="module")
def web(deployment: Deployment) -> Web:
    """The web process, on another host than the worker."""
    return start_web(deployment)


@pytest.fixture(scope="module")
def worker(deployment: Deployment) -> Role:
    """A worker, on a host of its own."""
    return deployment.start_worker("only", RUNYARD_RUN_OUTPUT_BYTES="100000")


def start_web(deployment: Deployment) -> Web:
    port = free_port()
    role = deployment.start("only", "web", "--workspace", "workspace.yaml", RUNYARD_PORT=str(port))
    web = Web(port)

    def answers() -> bool:
        assert not role.has_ended, role.log
        try:
            return bool(web.ask("{ version }"))
        except httpx.TransportError:
            return False

    wait_until(answers, 60)
    return web


def run_of(started: Started, web: Web) -> list[str]:
    """The key of a run that has printed what it prints first, and waits."""
    key = web.key(started.run_id)
    wait_until(lambda: web.output(key)["stdout"])
    return key


def files(deployment: Deployment) -> list[str]:
    """The files with output on all hosts."""
    return [path.name for path in deployment.folder.glob("data-*/output/*")]


def test_what_a_run_prints_is_shown_while_it_works(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    assert web.output(key)["stdout"] == "begun\na child\n"
    assert web.output(key)["stderr"] == "begun with a warning\na child warns\n"
    assert started.let_go() == "succeeded"


def test_what_it_prints_later_follows(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    cursor = web.output(key)["cursor"]
    started.let_go()
    assert wait_until(lambda: web.output(key, cursor)["stdout"]) == "\nthe end\n"
    assert web.output(key)["stdout"] == "begun\na child\n\nthe end\n"


def test_the_ui_has_a_download_of_it(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    assert web.download(key).text == "begun\na child\n"
    started.let_go()
    wait_until(lambda: web.download(key).text == "begun\na child\n\nthe end\n")


def test_the_files_of_a_run_that_has_ended_are_deleted(
    deployment: Deployment, web: Web, worker: Role, tmp_path: Path
) -> None:
    started = Started(tmp_path)
    run_of(started, web)
    assert len([name for name in files(deployment) if started.run_id in name]) == 2
    started.let_go()
    wait_until(lambda: not [name for name in files(deployment) if started.run_id in name])


def test_the_middle_of_a_long_output_is_left_out(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path, size=1_000_000)
    key = run_of(started, web)
    started.let_go()
    shown = wait_until(lambda: "the end" in (now := web.output(key)["stdout"]) and now)
    assert shown.startswith("begun\na child\n")
    assert "bytes are left out here]\n" in shown
    assert len(shown) < 100_200


def test_a_run_that_prints_nothing_has_no_rows(web: Web, worker: Role, tmp_path: Path) -> None:
    started = Started(tmp_path, silent=True)
    assert started.let_go() == "succeeded"
    key = web.key(started.run_id)
    assert web.output(key)["stdout"] == ""
    assert rows("SELECT FROM runyard.run_output WHERE key LIKE %s", f"{started.run_id}/%") == []


def test_the_output_of_a_killed_process_is_stored_by_its_worker(
    deployment: Deployment, web: Web, worker: Role, tmp_path: Path
) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    [path] = deployment.folder.glob(f"data-*/output/{started.run_id}*.out")
    with path.open("a") as file:
        file.write("its last words")
    kill(process_of(started.run_id))
    wait_until(lambda: web.output(key)["stdout"] == "begun\na child\nits last words", 60)
    assert not path.exists()
    started.let_go()


def test_what_was_printed_before_a_host_is_lost_stays(
    web: Web, worker: Role, tmp_path: Path
) -> None:
    started = Started(tmp_path)
    key = run_of(started, web)
    kill(psutil.Process(worker.pid))
    assert web.output(key)["stdout"] == "begun\na child\n"


def process_of(run_id: str) -> psutil.Process:
    """The process that executes a run."""
    [batch] = rows("SELECT worker FROM runyard.batches WHERE run_id = %s", run_id)
    return psutil.Process(int(batch["worker"].rsplit(":", 1)[1]))


def kill(process: psutil.Process) -> None:
    """Kill a process with all that it has started."""
    for each in [process, *process.children(recursive=True)]:
        each.kill()
