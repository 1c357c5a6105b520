"""Answers that no SDK would give: no run succeeds by one, and each run says why it fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runyard import Event, clock, send
from runyard.apps import catalog
from runyard.apps.registration import parse_registration
from runyard.engine.bulk import Selection
from runyard.engine.control import cancel
from runyard.testing import Invocation
from tests import remote_work
from tests.conftest import wait_until
from tests.tables import empty_tables, rows

HTML = b"<html><body>Bad gateway</body></html>"
SDK = {"x-inngest-sdk": "js:v4.24.0", "content-type": "application/json"}


class BadApp(ThreadingHTTPServer):
    """An application whose answer depends on the event's `answer`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/api/inngest"
        self.calls: list[str] = []
        self.released = threading.Event()

    def register(self, url: str) -> None:
        """Register one function that is called at a URL."""
        runtime = {"type": "http", "url": f"{url}?fnId=bad-any&stepId=step"}
        function = {
            "id": "bad-any",
            "triggers": [{"event": "bad/any"}],
            "steps": {"step": {"id": "step", "runtime": runtime, "retries": {"attempts": 2}}},
        }
        body = {"url": url, "appName": "bad", "functions": [function], "sdk": "js:v4.24.0"}
        catalog.write(parse_registration(json.dumps(body).encode()))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadApp

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = sent["event"]["data"]["answer"]
        self.server.calls.append(answer)
        match answer:
            case "moved" if not self.path.startswith("/moved"):
                self._answer(307, b"", {"location": self.path.replace("/api", "/moved/api")})
            case "502":
                self._answer(502, HTML, {"content-type": "text/html"})
            case "200 HTML":
                self._answer(200, HTML, {"content-type": "text/html"})
            case "206 HTML":
                self._answer(206, HTML, SDK)
            case "reset":
                self.close_connection = True
            case "large":
                self._answer(200, b'"' + b"x" * 20_000_000 + b'"', SDK)
            case "hang":
                self.server.released.wait(60)
                self._answer(200, b"null", SDK)
            case _:
                self._answer(200, b'"good"', SDK)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def app(runyard_database: str) -> Iterator[BadApp]:
    """The application, registered."""
    empty_tables()
    clock.freeze(clock.now())
    server = BadApp()
    server.register(server.url)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    clock.freeze(None)
    catalog.remove("bad")
    server.released.set()
    server.shutdown()
    server.server_close()


def sent(*answers: str) -> list[Invocation]:
    ids = send([Event("bad/any", {"answer": answer}) for answer in answers])
    found = rows("SELECT id, event_id FROM runyard.invocations")
    by_event = {row["event_id"]: Invocation(row["id"]) for row in found}
    return [by_event[id] for id in ids]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("502", "502"),
        ("200 HTML", "did not come from an Inngest SDK"),
        ("206 HTML", "the answer is no JSON"),
        ("reset", "disconnected"),
        ("large", "the answer has more than 8,388,608 bytes"),
    ],
)
def test_a_bad_answer_is_asked_for_again_and_then_fails_its_run_alone(
    app: BadApp, answer: str, words: str
) -> None:
    bad, good = sent(answer, "good")
    remote_work.work()
    assert (bad.status, good.status, good.output) == ("queued", "succeeded", "good")
    remote_work.advance(minutes=5)
    assert bad.status == "failed"
    assert app.calls.count(answer) == 3
    assert bad.error is not None
    assert words in bad.error["message"]


def test_a_redirect_that_keeps_the_method_is_followed(app: BadApp) -> None:
    [made] = sent("moved")
    remote_work.work()
    assert (made.output, app.calls) == ("good", ["moved", "moved"])


def test_an_application_that_is_not_there_is_tried_again(app: BadApp) -> None:
    app.register("http://127.0.0.1:1/api/inngest")
    [made] = sent("good")
    remote_work.work()
    assert made.status == "queued"
    assert made.error is not None
    assert "127.0.0.1:1" in made.error["message"]
    app.register(app.url)
    remote_work.advance(minutes=5)
    assert made.output == "good"


def test_an_answer_that_does_not_come_holds_up_no_other(app: BadApp) -> None:
    hung, good = sent("hang", "good")
    running = threading.Thread(target=remote_work.work)
    running.start()
    wait_until(lambda: good.status == "succeeded")
    assert hung.status == "running"
    cancel(Selection(invocations=(hung.id,)))
    running.join(20)
    assert (running.is_alive(), hung.status) == (False, "cancelled")
