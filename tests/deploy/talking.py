"""A function that prints, on a worker of its own host, and the Dagster UI of another host."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from runyard import send
from tests.conftest import settled, wait_until
from tests.deploy.roles import Deployment
from tests.ports import free_port
from tests.tables import rows

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
    print("x" * item.data.get("size", 0) + item.data.get("says", ""))
    print("the end")
    if item.data.get("replaces"):
        sys.stdout = sys.stderr = None

defs = definitions(talk)
"""
_EVENTS = """query($run: ID!) { logsForRun(runId: $run) { ... on EventConnection { events {
    ... on LogsCapturedEvent { fileKey } } } } }"""
_LOGS = """query($key: [String!]!, $cursor: String) {
    capturedLogs(logKey: $key, cursor: $cursor) { stdout stderr cursor } }"""
_SUBSCRIPTION = """subscription($key: [String!]!) { capturedLogs(logKey: $key) { stdout } }"""
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

    def watch(self, key: list[str]) -> Generator[str]:
        """What a page that shows standard output is sent, piece by piece."""
        url, protocol = self._url.replace("http:", "ws:"), Subprotocol("graphql-ws")
        start = {"query": _SUBSCRIPTION, "variables": {"key": key}}
        with connect(f"{url}/graphql", subprotocols=[protocol]) as socket:
            socket.send(json.dumps({"type": "connection_init"}))
            socket.send(json.dumps({"type": "start", "id": "1", "payload": start}))
            while True:
                message = json.loads(socket.recv(timeout=30))
                if message["type"] == "data":
                    yield message["payload"]["data"]["capturedLogs"]["stdout"] or ""

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


def start_web(deployment: Deployment, version: str = "only") -> Web:
    """Start the web process, and wait until its UI answers."""
    port = free_port()
    role = deployment.start(version, "web", "--workspace", "workspace.yaml", RUNYARD_PORT=str(port))
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

    def is_shown() -> bool:
        shown = web.output(key)
        return "a child\n" in shown["stdout"] and "a child warns\n" in shown["stderr"]

    wait_until(is_shown)
    return key


def process_of(run_id: str) -> psutil.Process:
    """The process that executes a run."""
    [batch] = rows("SELECT worker FROM runyard.batches WHERE run_id = %s", run_id)
    return psutil.Process(int(batch["worker"].rsplit(":", 1)[1]))
