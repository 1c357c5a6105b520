"""The door that faces others, as a process of its own with keys; no worker and no daemon behind it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from runyard import keys, registry
from runyard.registry import Function
from runyard.retry import Retry
from runyard.settings import settings
from runyard.store import database
from tests.conftest import ROOT, free_port, use_database
from tests.fake_gemini import FakeGemini

SIGNING_SECRET = "whsec_c2lnbmluZy1zZWNyZXQtb2YtdGhlLXRlc3Rz"
ORIGIN = "https://shop.example"
_TABLES = "events, functions, triggers, invocations, steps, batches, waits, parts, gates, bulks, progress"


class Door:
    """A gateway process, and clients with keys."""

    def __init__(self, url: str, log: Path, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        self._variables = {**os.environ, "DATABASE_URL": url, "RUNYARD_PORT": str(self.port), **variables}
        self._process: subprocess.Popen[bytes] | None = None
        self.keys: dict[str, str] = {}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, "-m", "runyard", "web", "--api-only"], env=self._variables, cwd=ROOT, stdout=log, stderr=log)
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
        """Stop it, in order or not."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(15)
            self._process = None

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(encoding="utf-8")

    def ask(self, method: str, path: str, key: str | None = "all", **more: Any) -> httpx.Response:
        """Send a request with the key of this name."""
        headers = {**({"Authorization": f"Bearer {self.keys[key]}"} if key else {}), **more.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=30, **more)

    def get(self, path: str, key: str | None = "all", **more: Any) -> httpx.Response:
        """GET."""
        return self.ask("GET", path, key, **more)

    def post(self, path: str, json: Any = None, key: str | None = "all", **more: Any) -> httpx.Response:
        """POST."""
        return self.ask("POST", path, key, **({"json": json} if json is not None else {}), **more)

    def send(self, *events: dict[str, Any]) -> list[str]:
        """Send events by the event API; return their ids."""
        answer = httpx.post(f"{self.url}/e/{self.keys['all']}", json=list(events))
        assert answer.status_code == 200, answer.text
        return list(answer.json()["ids"])


@pytest.fixture(scope="package")
def door_url(server: str) -> str:
    """The URL of the database behind the door."""
    return use_database(server, "door")


@pytest.fixture(scope="package")
def gemini() -> Iterator[FakeGemini]:
    """A fake of Gemini's API that checks what it is sent."""
    with FakeGemini() as fake:
        yield fake


@pytest.fixture(scope="package")
def door(door_url: str, gemini: FakeGemini, sendgrid_keys: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The gateway, with a key of every kind."""
    os.environ["RUNYARD_ENVIRONMENT"] = "test"
    settings.cache_clear()
    made = Door(
        door_url, tmp_path_factory.mktemp("door") / "log", RUNYARD_SIGNING_SECRETS=f"old-secret-of-the-tests,{SIGNING_SECRET}", RUNYARD_CORS_ORIGINS=ORIGIN,
        RUNYARD_LOG_LEVEL="info", RUNYARD_CLIENT_SECONDS="3", SENDGRID_WEBHOOK_PUBLIC_KEY=sendgrid_keys[1],
        GITHUB_WEBHOOK_SECRET="github-secret", STRIPE_WEBHOOK_SECRET="stripe-secret",
        GEMINI_API_KEY=gemini.key, GEMINI_API_HOST=gemini.url,
    )  # fmt: skip
    for name, scopes in {"all": ["send", "read", "manage"], "send": ["send"], "read": ["read"], "manage": ["manage"]}.items():
        made.keys[name] = keys.create(name, scopes, per_second=100_000)[1]
    made.start()
    yield made
    made.stop()
    del os.environ["RUNYARD_ENVIRONMENT"]


@pytest.fixture(scope="package")
def sendgrid_keys() -> tuple[Any, str]:
    """The private key with which SendGrid would sign, and its public key as its settings page shows it."""
    from base64 import b64encode

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = ec.generate_private_key(ec.SECP256R1())
    return private, b64encode(private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.fixture(autouse=True)
def functions(door_url: str) -> Iterator[dict[str, Function]]:
    """Empty tables, and three functions."""
    before = registry._functions
    made = [
        Function("greet", "greet_job", ("greet/requested",), retry=Retry(attempts=3)),
        Function("also", "also_job", ("greet/requested", "also/*"), retry=Retry(attempts=3)),
        Function("send_email", "send_email", ("email/send.requested",)),
    ]
    registry._functions = {function.name: function for function in made}
    with database.connection() as connection:
        connection.execute(f"TRUNCATE {', '.join(f'runyard.{table}' for table in _TABLES.split(', '))} RESTART IDENTITY".encode())
        connection.execute("TRUNCATE app.email_messages, app.email_reports, app.suppressions")
    registry.publish()
    yield registry._functions
    registry._functions = before


def count(table: str = "runyard.events") -> int:
    """How many rows a table has."""
    with database.connection() as connection:
        row = connection.execute(f"SELECT count(*) AS n FROM {table}".encode()).fetchone()
    assert row is not None
    return int(str(row["n"]))
