"""A web process for tests, and requests to it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import tuple_row

from runyard.engine import api_keys
from runyard.functions import registry
from runyard.functions.registry import Function
from tests.conftest import ROOT, wait_until
from tests.ports import free_port
from tests.tables import empty_tables, rows

_SERVE = """
from runyard.gateway.app import build_app
from runyard.gateway.http.server import serve
serve(build_app(None, development=True))
"""
_TABLES_OF_THE_FAMILIES = (
    "app.email_messages",
    "app.email_reports",
    "app.suppressions",
    "app.contact_messages",
    "app.webhook_payloads",
)


class WebProcess:
    """A web process, and requests with its keys.

    Parameters
    ----------
    url
        The URL of its database.
    log
        The file for its log.
    arguments
        The arguments of `runyard web`.
    variables
        Environment variables besides those of the tests.
    """

    def __init__(
        self, url: str, log: Path, arguments: Sequence[str] = ("--api-only",), **variables: str
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self._log = log
        self._variables = {
            **os.environ,
            "DATABASE_URL": url,
            "RUNYARD_PORT": str(self.port),
            **variables,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.keys: dict[str, str] = {}

    def make_keys(self) -> None:
        """Make a key that may do everything, `all`, and one for each scope."""
        for name, scopes in {
            "all": api_keys.SCOPES,
            **{scope: (scope,) for scope in api_keys.SCOPES},
        }.items():
            self.keys[name] = api_keys.create(name, scopes, per_second=100_000)[1]

    def start(self) -> None:
        """Start it, and wait until it responds."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runyard", "web", *self._arguments],
                env=self._variables,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                assert time.monotonic() < deadline, self.log()
                assert self._process.poll() is None, self.log()
                time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, gracefully or not."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(15)
            self._process = None

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Its log."""
        return self._log.read_text(encoding="utf-8")

    def ask(self, method: str, path: str, key: str | None = "all", **more: Any) -> httpx.Response:
        """Send a request with the key of this name."""
        headers = {
            **({"Authorization": f"Bearer {self.keys[key]}"} if key else {}),
            **more.pop("headers", {}),
        }
        return httpx.request(method, self.url + path, headers=headers, timeout=30, **more)

    def hold(
        self, connection: psycopg.Connection[Any], name: str, event_id: str, key: str = "all"
    ) -> str:
        """Send an event with the key of this name in an open transaction; return its id."""
        [sender] = [
            valid.sender
            for valid in api_keys.valid()
            if valid.hash == api_keys.digest(self.keys[key])
        ]
        events = json.dumps([{"name": name, "id": event_id, "sender": sender}])
        cursor = connection.cursor(row_factory=tuple_row).execute(
            "SELECT runyard.send_v1(%s::jsonb, 'http')", (events,)
        )
        return str(cursor.fetchall()[0][0])

    def get(self, path: str, key: str | None = "all", **more: Any) -> httpx.Response:
        """GET."""
        return self.ask("GET", path, key, **more)

    def post(
        self, path: str, body: Any = None, key: str | None = "all", **more: Any
    ) -> httpx.Response:
        """POST."""
        return self.ask("POST", path, key, **({"json": body} if body is not None else {}), **more)

    def send(self, *events: dict[str, Any]) -> list[str]:
        """Send events by the event API; return their ids."""
        answer = httpx.post(f"{self.url}/e/{self.keys['all']}", json=list(events))
        assert answer.status_code == 200, answer.text
        return list(answer.json()["ids"])


@contextmanager
def published(*functions: Function) -> Iterator[dict[str, Function]]:
    """Empty the tables, and publish these functions; gives them by name."""
    empty_tables(*_TABLES_OF_THE_FAMILIES)
    with registry.use(*functions):
        registry.publish()
        yield {function.name: function for function in functions}


def count(table: str = "runyard.events") -> int:
    """How many rows a table has."""
    return int(rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def web_in_development(url: str, port: int, **variables: str) -> "subprocess.Popen[bytes]":
    """Start a web process in development, and wait until it answers."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        env={
            **os.environ,
            "DATABASE_URL": url,
            "RUNYARD_PORT": str(port),
            **variables,
        },
        cwd=ROOT,
    )

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers)
    return process
