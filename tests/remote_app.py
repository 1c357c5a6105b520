"""An application whose functions end at once, or when they are let go; it speaks no SDK's language.

It answers as the SDKs do when a function returns its event's data.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from runyard.apps import catalog
from runyard.apps.registration import parse_registration


class RemoteApp:
    """The application.

    Attributes
    ----------
    name, url
        Its id, and where it is served.
    open
        Set while calls are answered.
    calls
        The data of the events that it was called with.
    traces
        The headers `traceparent` of these calls.
    invokes
        The ids of functions that invoke another one first, each with that one's id.
    """

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}/api/inngest?token=secret"
        self.open = threading.Event()
        self.open.set()
        self.calls: list[Mapping[str, Any]] = []
        self.traces: list[str | None] = []
        self.invokes: dict[str, str] = {}

    def answer(self, path: str, sent: Mapping[str, Any]) -> tuple[int, Any]:
        """What a call is answered with: its status and its body."""
        [slug] = parse_qs(urlsplit(path).query)["fnId"]
        if slug in self.invokes and not sent["steps"]:
            return 206, [invocation_of(self.invokes[slug], sent["event"]["data"])]
        return 200, sent["event"]["data"]

    def register(
        self,
        *functions: str,
        crons: Mapping[str, str] | None = None,
        events: Mapping[str, str] | None = None,
    ) -> None:
        """Register functions, each started by an event of its own name or of another one.

        Some are started by a schedule too.
        """
        body = {
            "url": self.url,
            "appName": self.name,
            "functions": [
                self._function(
                    each,
                    (events or {}).get(each, f"{self.name}/{each}"),
                    (crons or {}).get(each),
                )
                for each in functions
            ],
            "sdk": "js:v4.18.1",
        }
        catalog.write(parse_registration(json.dumps(body).encode()))

    def _function(self, name: str, event: str, cron: str | None) -> dict[str, Any]:
        triggers = [{"event": event}, *([{"cron": cron}] if cron else [])]
        slug = f"{self.name}-{name}"
        runtime = {"type": "http", "url": f"{self.url}&fnId={slug}&stepId=step"}
        return {
            "id": slug,
            "name": f"The {name}",
            "triggers": triggers,
            "steps": {"step": {"id": "step", "name": "step", "runtime": runtime}},
        }


def invocation_of(slug: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The step that invokes a function, as SDKs write it."""
    return {
        "id": sha1(b"invoke").hexdigest(),
        "op": "InvokeFunction",
        "name": "invoke",
        "displayName": "invoke",
        "userland": {"id": "invoke"},
        "opts": {"function_id": slug, "payload": {"data": data}},
    }


@contextmanager
def served_app(name: str = "shop") -> Iterator[RemoteApp]:
    """Serve an application, and forget it afterwards."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
            data = sent["event"]["data"]
            app.calls.append(data)
            app.traces.append(self.headers["traceparent"])
            app.open.wait(60)
            status, answer = app.answer(self.path, sent)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.send_header("x-inngest-sdk", "js:v4.18.1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1_000  # calls of parallel steps come all at once

    server = Server(("127.0.0.1", 0), Handler)
    app = RemoteApp(name, server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield app
    finally:
        app.open.set()
        catalog.remove(name)
        server.shutdown()
        server.server_close()
