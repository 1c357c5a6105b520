"""How many files a caller may have open."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import ROOT


def limits(soft: int, hard: int) -> list[str]:
    """What a process with these limits ends with, and whether it finds its hard limit low."""
    code = (
        "import resource; from runyard.processes.open_files import allow_open_files, low_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); allow_open_files();"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE), low_limit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def test_a_caller_may_open_as_many_files_as_its_user_may() -> None:
    assert limits(256, 4_500) == ["4500", "4500", "None"]


def test_a_hard_limit_that_is_low_is_told() -> None:
    assert limits(256, 1_024) == ["1024", "1024", "1024"]


CALLS = """
import asyncio, resource
from runyard.apps.calls import Caller, Guard
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
async def call():
    async with Caller(Guard(may_be_private=True), 60) as caller:
        calls = [caller.ask("POST", "%s", b"{}", {}) for _ in range(200)]
        print({(answer.status, answer.problem) for answer in await asyncio.gather(*calls)})
asyncio.run(call())
"""


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of a server that answers as soon as 50 requests wait for it."""
    barrier = threading.Barrier(50)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            barrier.wait(30)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 200

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_calls_for_which_no_file_may_be_opened_wait_for_others(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLS % url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "{(204, '')}", done.stderr
