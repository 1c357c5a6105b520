"""Inngest's published SDKs, Python and JavaScript, with only their base URL and key set."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runyard.store import database
from tests.conftest import wait_until
from tests.sdk_apps import SDKS, install_javascript
from tests.web_process import WebProcess, count

Send = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the JavaScript SDK from npm, for Node.js of the development dependencies."""
    return install_javascript(tmp_path_factory.mktemp("javascript"))


@pytest.fixture(params=["python", "javascript"])
def send(request: pytest.FixtureRequest, web: WebProcess) -> Send:
    """Sends events through an SDK several times; returns `ids`, and `error` if there was one."""
    binaries = Path(sys.executable).parent
    folder, command = (
        (SDKS, [sys.executable, "send.py"])
        if request.param == "python"
        else (request.getfixturevalue("node"), [binaries / "node", "send.mjs"])
    )

    def run(events: list[dict[str, Any]], key: str | None = None, times: int = 1) -> dict[str, Any]:
        # The key and the base URL, and nothing else.
        variables = {
            **os.environ,
            "INNGEST_EVENT_KEY": key or web.keys["send"],
            "INNGEST_BASE_URL": web.url,
            "INNGEST_DEV": "0",
        }
        done = subprocess.run(
            [*command, json.dumps(events), str(times)],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))

    return run


def kept(ids: list[str]) -> list[dict[str, Any]]:
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT id, name, data, idempotency_key, extract(epoch FROM ts) AS ts"
            " FROM runyard.events WHERE id = ANY (%s)",
            (ids,),
        ).fetchall()
    return sorted((dict(row) for row in rows), key=lambda row: ids.index(row["id"]))


def test_one_and_many_events_arrive_as_they_were_sent(send: Send) -> None:
    before = time.time()
    [one] = send(
        [{"name": "greet/requested", "data": {"who": "Ada", "n": 1.5, "list": [1, None, "é"]}}]
    )["ids"]
    many = send([{"name": "greet/requested", "data": {"n": n}} for n in range(20)])["ids"]
    assert kept([one])[0]["data"] == {"who": "Ada", "n": 1.5, "list": [1, None, "é"]}
    assert before - 5 < float(kept([one])[0]["ts"]) < time.time() + 5
    assert [row["data"]["n"] for row in kept(many)] == list(range(20))
    assert count("runyard.invocations") == 42


def test_an_id_is_the_idempotency_key_and_a_ts_the_time(send: Send) -> None:
    event = {"name": "greet/requested", "id": "order-1", "ts": 1_700_000_000_000, "data": {}}
    first, again = send([event])["ids"], send([event])["ids"]
    assert first == again
    assert count() == 1
    assert (kept(first)[0]["idempotency_key"], int(kept(first)[0]["ts"])) == (
        "order-1",
        1_700_000_000,
    )


def test_a_wrong_key_is_an_error_of_the_sdk(send: Send) -> None:
    found = send([{"name": "greet/requested"}], key="not-a-key-that-is-known")
    assert found["ids"] == []
    assert "Event key not found" in found["error"]
    assert count() == 0


def test_a_bad_event_is_an_error_of_the_sdk_and_nothing_is_taken(send: Send) -> None:
    found = send(
        [{"name": "greet/requested"}, {"name": "email/send.requested", "data": {"to": "nobody"}}]
    )
    assert "[1].data.to: " in found["error"]
    assert count() == 0


def test_a_restart_while_sending_loses_and_duplicates_nothing(send: Send, web: WebProcess) -> None:
    """The process is killed and restarted as the SDK sends: retries deliver each event once."""

    def restart() -> None:
        wait_until(lambda: count() > 0)
        web.stop(kill=True)
        web.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    total: list[str] = []
    # An SDK gives up after some retries; events for which it has returned ids are stored anyway.
    while restarting.is_alive():
        total += send([{"name": "greet/requested"}] * 3, times=40)["ids"]
    after = send([{"name": "greet/requested"}] * 3, times=5)["ids"]
    total += after
    with database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) AS n, count(DISTINCT id) AS d FROM runyard.events WHERE id = ANY (%s)",
            (total,),
        ).fetchone()
    assert len(after) == 15
    assert len(set(total)) == len(total)
    assert row == {"n": len(total), "d": len(total)}
    # Committed events whose response was lost got the same ids when they were sent again.
    assert count() - len(total) <= 3
