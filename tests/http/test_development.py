"""Development on loopback: no key is required, and still no page of another site gets in."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import ROOT, wait_until
from tests.ports import free_port
from tests.web_process import count

SERVE = """
from runyard.gateway.app import build_app
from runyard.gateway.http.server import serve
serve(build_app(None, development=True))
"""


@pytest.fixture(scope="module")
def developing(web_database_url: str) -> Iterator[str]:
    """The URL of a web process in development, without the Dagster UI."""
    port = free_port()
    variables = {
        **os.environ,
        "DATABASE_URL": web_database_url,
        "RUNYARD_PORT": str(port),
        "RUNYARD_CORS_ORIGINS": "https://preview.example",
    }
    process = subprocess.Popen([sys.executable, "-c", SERVE], env=variables, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers)
    yield url
    process.terminate()
    process.wait(15)


def test_no_key_is_asked_for(developing: str) -> None:
    assert httpx.post(f"{developing}/e/anything", json={"name": "a/b"}).status_code == 200
    assert httpx.get(f"{developing}/api/events").status_code == 200
    assert (
        httpx.post(
            f"{developing}/api/bulk/cancel", json={"function": "greet", "dry_run": True}
        ).status_code
        == 200
    )


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:8290",
    ],
)
def test_a_page_of_another_site_can_neither_read_nor_act(developing: str, origin: str) -> None:
    """The headers of a form or a fetch without a preflight."""
    for method, path in (
        ("POST", "/api/bulk/cancel"),
        ("POST", "/api/events"),
        ("POST", "/functions/v1/send-email"),
        ("GET", "/api/events"),
    ):
        answer = httpx.request(
            method,
            developing + path,
            content=json.dumps({"function": "greet"}),
            headers={"Origin": origin, "Content-Type": "text/plain"},
        )
        assert answer.status_code == 403
        assert answer.json()["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    assert count() == 0


def test_pages_of_the_list_may(developing: str) -> None:
    answer = httpx.get(f"{developing}/api/events", headers={"Origin": "https://preview.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://preview.example"


def test_another_name_for_this_machine_is_refused(developing: str) -> None:
    assert (
        httpx.get(f"{developing}/api/events", headers={"Host": "evil.example"}).status_code == 400
    )


def test_an_unsigned_webhook_is_taken_with_a_warning(developing: str) -> None:
    headers = {"X-GitHub-Event": "ping", "X-GitHub-Delivery": "1"}
    assert (
        httpx.post(f"{developing}/webhooks/github", json={"zen": "x"}, headers=headers).status_code
        == 200
    )
    assert (
        httpx.post(f"{developing}/webhooks/github", json={"zen": "x"}).json()["code"]
        == "invalid_request"
    )


def test_gemini_without_a_key_is_an_offline_text_that_says_so(developing: str) -> None:
    found = httpx.post(f"{developing}/functions/v1/gemini", json={"prompt": "queues"}).json()
    assert found["offline"] is True
    assert "queues" in found["text"]
    assert "offline" in found["text"]
