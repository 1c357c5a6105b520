"""A web process that is told to stop answers what is open, and lets nobody wait for it."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from runyard.functions.registry import Function
from tests.conftest import wait_until
from tests.web_process import WebProcess, count

# Far more than any test takes.
_LONG = "100"


@pytest.fixture
def stopping(
    web: WebProcess,
    functions: dict[str, Function],
    web_database_url: str,
    tmp_path: Path,
) -> Iterator[WebProcess]:
    """A web process of its own, which has long to finish its requests."""
    process = WebProcess(web_database_url, tmp_path / "log", RUNYARD_DRAIN_TIMEOUT=_LONG)
    process.keys = web.keys
    process.start()
    yield process
    process.stop(kill=True)


def answered_at_stop(
    web: WebProcess, request: Callable[[], httpx.Response], is_open: Callable[[], Any]
) -> httpx.Response:
    """What a request is answered that is in progress when the process is told to stop."""
    with ThreadPoolExecutor(1) as pool:
        answer: Future[httpx.Response] = pool.submit(request)
        wait_until(is_open)
        web.stop()
        return answer.result(10)


def test_a_request_that_waits_for_an_outcome_is_answered_without_it(stopping: WebProcess) -> None:
    answer = answered_at_stop(
        stopping,
        lambda: stopping.post("/api/inngest/trigger?wait=100", {"function": "also"}),
        count,
    )
    assert answer.status_code == 202
    assert [each["status"] for each in answer.json()["invocations"]] == ["queued"]


def test_a_stream_ends_as_complete(stopping: WebProcess) -> None:
    answer = stopping.post("/api/inngest/trigger?wait=0.1", {"function": "also"}).json()
    path = f"/api/invocations/{answer['invocations'][0]['id']}/stream"
    headers = {"Authorization": f"Bearer {stopping.keys['read']}"}
    with httpx.stream("GET", f"{stopping.url}{path}", headers=headers, timeout=10) as stream:
        lines = stream.iter_lines()
        assert next(line for line in lines if line.startswith("event:")) == "event: status"
        stopping.stop()
        assert not any(line.startswith("event: done") for line in lines)


def test_a_request_whose_body_is_on_its_way_is_finished(stopping: WebProcess) -> None:
    body = b'{"name": "late/one"}'
    head = f"POST /e/{stopping.keys['all']} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", stopping.port), 10) as client:
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:5])
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(stopping.stop)
            wait_until(lambda: not accepts(stopping))
            client.sendall(body[5:])
            answer = client.recv(10_000)
            stopped.result(10)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()
    assert count() == 1


def accepts(web: WebProcess) -> bool:
    """Whether the process accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", web.port), 1).close()
    except OSError:
        return False
    return True
