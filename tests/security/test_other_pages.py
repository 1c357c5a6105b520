"""No page of another site acts or reads through a developer's browser, on any of our paths."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Browser, Page

from demo.fake_server import FakeServer, Handler
from tests.browser import chromium
from tests.conftest import wait_until
from tests.security.conftest import LISTED
from tests.web_process import WebProcess, count

EVENT = {
    "name": "email/send.requested",
    "data": {"to": "ada@example.com", "subject": "x", "text": "y"},
}
BOUNCE = [
    {
        "event": "bounce",
        "type": "bounce",
        "email": "ada@example.com",
        "timestamp": 1_780_000_000,
        "sg_event_id": "1",
    }
]
LAUNCH = (
    'mutation { launchRun(executionParams: {selector: {repositoryLocationName: "tests.code",'
    ' repositoryName: "__repository__", pipelineName: "send_email"},'
    ' runConfigData: "{}", mode: "default"}) { __typename } }'
)
READS = "query { runsOrError { __typename } }"
# What a page can send without a preflight (Fetch Standard: no-cors), with and without a body.
ASKED: list[tuple[str, str, Any]] = [
    ("GET", f"/graphql?query={LAUNCH}", None),
    ("POST", f"/graphql?query={LAUNCH}", None),
    ("POST", "/graphql", {"query": LAUNCH}),
    ("POST", "/report_asset_materialization/report_demo", {}),
    ("POST", "/report_asset_check/report_demo", {"check_name": "x", "passed": True}),
    ("POST", "/report_asset_observation/report_demo", {}),
    ("GET", "/download_debug/00000000-0000-0000-0000-000000000000", None),
    ("GET", "/logs/x/y/z.err", None),
    ("GET", "/server_info", None),
    ("POST", "/e/x", EVENT),
    ("POST", "/api/events", EVENT),
    ("POST", "/api/inngest", EVENT),
    ("POST", "/api/inngest/trigger", {"function": "greet"}),
    ("POST", "/api/bulk/cancel", {"function": "greet"}),
    ("POST", "/functions/v1/send-email", EVENT["data"]),
    ("POST", "/functions/v1/gemini", {"prompt": "x"}),
    ("POST", "/webhooks/sendgrid", BOUNCE),
    ("POST", "/webhooks/github", {"zen": "x"}),
    (
        "POST",
        "/webhooks/stripe",
        {"id": "evt_1", "type": "x", "created": 1_780_000_000, "data": {"object": {}}},
    ),
    ("POST", "/dev/functions/greet/pause", None),
    ("GET", "/dev", None),
    ("GET", "/dev/events?data=x", None),
    ("GET", "/api/events", None),
    ("GET", "/api/functions", None),
    ("GET", "/v1/events", None),
    ("GET", "/metrics", None),
    ("GET", "/openapi.json", None),
    ("GET", "/", None),
    ("DELETE", "/v1/runs/1", None),
]
_ids = [f"{method} {path[:30]}" for method, path, _ in ASKED]
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost.evil.example:8290"},
    {"Origin": "chrome-extension://abcdefghijklmnop"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Sec-Fetch-Site": "something-new"},
]
MALFORMED = [
    "",
    "evil",
    "https://",
    "https://a b",
    "https://a.example/path",
    "https://a.example?x",
    "https://[::1",
    "https://a.example:99999",
    "https://a@b.example",
    "x" * 400,
]


def ask(
    face: WebProcess,
    method: str,
    path: str,
    body: Any = None,
    kind: str = "text/plain",
    **headers: str,
) -> httpx.Response:
    """Send a request as a page would."""
    content = json.dumps(body).encode() if body is not None else None
    return httpx.request(
        method,
        face.url + path,
        content=content,
        headers={**({"Content-Type": kind} if content else {}), **headers},
        timeout=30,
    )


def runs() -> int:
    """How many runs Dagster knows."""
    return count("public.runs")


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize(("method", "path", "body"), ASKED, ids=_ids)
def test_what_comes_from_another_site_is_refused(
    development: WebProcess, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    answer = ask(development, method, path, body, **headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


def test_and_it_has_had_no_effect(development: WebProcess) -> None:
    before = runs()
    for method, path, body in ASKED:
        for headers in FOREIGN:
            ask(development, method, path, body, **headers)
    assert (count(), count("app.suppressions"), runs()) == (0, 0, before)


@pytest.mark.parametrize("origin", MALFORMED)
def test_a_malformed_origin_is_a_bad_request(
    web: WebProcess, development: WebProcess, origin: str
) -> None:
    for face in (web, development):
        answer = ask(face, "GET", "/healthz", Origin=origin)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_origin")


def test_two_origins_are_a_bad_request(web: WebProcess, development: WebProcess) -> None:
    for face in (web, development):
        answer = httpx.get(
            f"{face.url}/healthz", headers=[("Origin", "https://a.example"), ("Origin", LISTED)]
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_origin")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "127.0.0.2",
        "[::2]",
        "localhost:x",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/dev", "/e/x", "/graphql", "/healthz"])
def test_under_another_name_nothing_is_answered(
    development: WebProcess, host: str, path: str
) -> None:
    answer = ask(development, "GET", path, Host=host)
    assert (answer.status_code, answer.json()["code"]) == (400, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_under_the_names_of_this_machine_it_is(development: WebProcess, host: str) -> None:
    assert ask(development, "GET", "/healthz", Host=f"{host}:{development.port}").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/runs", "/locations/tests.code/jobs/send_email", "/dev", "/dev/events", "/docs"]
)
def test_a_link_on_another_site_leads_to_pages(development: WebProcess, path: str) -> None:
    headers = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
        "Accept": "text/html",
    }
    assert ask(development, "GET", path, **headers).status_code in (200, 404)


@pytest.mark.parametrize(
    "path",
    [
        "/graphql",
        "/api/events",
        "/metrics",
        "/logs/x/y/z.err",
        "/download_debug/x",
        "/dagit/notebook",
        "/openapi.json",
        "/e/x",
    ],
)
def test_and_to_nothing_else(development: WebProcess, path: str) -> None:
    headers = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
        "Accept": "text/html",
    }
    assert ask(development, "GET", path, **headers).status_code == 403


def test_our_own_pages_may_ask(development: WebProcess) -> None:
    own = {"Origin": development.url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert (
        ask(development, "POST", "/graphql", {"query": READS}, "application/json", **own).json()[
            "data"
        ]["runsOrError"]["__typename"]
        == "Runs"
    )
    assert ask(development, "POST", "/e/x", EVENT, "application/json", **own).status_code == 200


@pytest.mark.parametrize("path", ["/e/x", "/api/events"])
def test_a_listed_origin_may_call_the_api_and_read_its_answers(
    development: WebProcess, path: str
) -> None:
    preflight = ask(
        development,
        "OPTIONS",
        path,
        Origin=LISTED,
        **{
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (
        200,
        LISTED,
    )
    answer = ask(
        development,
        "POST",
        path,
        EVENT,
        "application/json",
        Origin=LISTED,
        **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    )
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, LISTED)


@pytest.mark.parametrize("path", ["/graphql", "/webhooks/github", "/metrics", "/dev"])
def test_it_may_call_nothing_besides(development: WebProcess, path: str) -> None:
    assert ask(development, "GET", path, Origin=LISTED).status_code == 403


@pytest.mark.parametrize(
    "path", [path for method, path, _ in ASKED if method != "DELETE"] + ["/docs", "/dev/events"]
)
def test_no_answer_is_for_every_origin_where_no_key_is_asked_for(
    development: WebProcess, path: str
) -> None:
    for headers in ({}, {"Origin": LISTED}, {"Origin": "https://evil.example"}):
        for method in ("GET", "POST", "OPTIONS"):
            preflight = {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
            answer = ask(development, method, path, None, **headers, **preflight)
            assert answer.headers.get("access-control-allow-origin") in (None, LISTED)


def test_the_event_api_is_for_every_origin_where_a_key_is_asked_for(web: WebProcess) -> None:
    answer = ask(web, "POST", f"/e/{web.keys['send']}", EVENT, Origin="https://anybody.example")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


def test_all_origins_cannot_be_listed_for_development(
    development: WebProcess, security_url: str, tmp_path: Any
) -> None:
    wrong = WebProcess(security_url, tmp_path / "log", [], RUNYARD_CORS_ORIGINS="*")
    with pytest.raises(AssertionError, match="RUNYARD_CORS_ORIGINS"):
        wrong.start()


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain;charset=UTF-8",
        "multipart/form-data; boundary=x",
        "application/xml",
        "image/png",
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/e/x",
        "/api/events",
        "/functions/v1/send-email",
        "/webhooks/sendgrid",
        "/webhooks/github",
        "/graphql",
        "/report_asset_materialization/x",
    ],
)
def test_a_body_that_is_declared_as_something_else_than_json_is_refused(
    development: WebProcess, path: str, kind: str
) -> None:
    answer = ask(development, "POST", path, EVENT, kind)
    assert (answer.status_code, answer.json()["code"]) == (415, "not_json")
    assert count() == 0


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/cloudevents+json",
        "application/x-www-form-urlencoded",
    ],
)
def test_json_is_taken_and_what_curl_declares_by_itself(development: WebProcess, kind: str) -> None:
    assert ask(development, "POST", "/e/x", EVENT, kind).status_code == 200


def test_a_form_of_a_browser_is_not_taken_for_json(development: WebProcess) -> None:
    own = {"Origin": development.url, "Sec-Fetch-Site": "same-origin"}
    assert (
        ask(
            development, "POST", "/e/x", EVENT, "application/x-www-form-urlencoded", **own
        ).status_code
        == 415
    )


def test_graphql_is_not_executed_by_get(development: WebProcess) -> None:
    before = runs()
    assert ask(development, "GET", f"/graphql?query={LAUNCH}").status_code == 405
    assert runs() == before


OPENING = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c2VjdXJpdHktdGVzdHMhIQ==",
}


def opening(
    face: WebProcess,
    path: str = "/graphql",
    version: str = "1.1",
    **headers: str,
) -> bytes:
    """The head of a WebSocket handshake."""
    asked = {
        "Host": f"127.0.0.1:{face.port}",
        **OPENING,
        "Sec-WebSocket-Protocol": "graphql-ws",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
    return f"GET {path} HTTP/{version}\r\n{lines}\r\n".encode()


def connected(face: WebProcess) -> socket.socket:
    """A connection."""
    return socket.create_connection(("127.0.0.1", face.port), 10)


def upgrade(face: WebProcess, path: str, **headers: str) -> bytes:
    """Open a WebSocket; return the beginning of the response."""
    with connected(face) as connection:
        connection.sendall(opening(face, path, **headers))
        return connection.recv(4096)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_socket_for_another_site_is_refused(
    development: WebProcess, headers: dict[str, str]
) -> None:
    assert upgrade(development, "/graphql", **headers).startswith(b"HTTP/1.1 403")


def test_a_socket_under_another_name_is_refused(development: WebProcess) -> None:
    assert upgrade(development, "/graphql", Host="evil.example").startswith(b"HTTP/1.1 400")


def test_a_socket_for_our_own_pages_is_opened(development: WebProcess) -> None:
    assert upgrade(
        development, "/graphql", Origin=development.url, **{"Sec-WebSocket-Protocol": "graphql-ws"}
    ).startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize(
    "path",
    [
        "/e/x",
        "/api/events",
        "/api/invocations/1/stream",
        "/v1/events",
        "/webhooks/github",
        "/dev",
        "/docs",
        "/nothing",
        "/",
    ],
)
def test_where_there_is_no_socket_asking_for_one_is_not_found(
    development: WebProcess, path: str
) -> None:
    assert upgrade(development, path).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "path", ["/e/x", "/api/events", "/api/invocations/1/stream", "/dev", "/docs", "/graphql", "/"]
)
def test_other_paths_have_no_websocket_at_all(web: WebProcess, path: str) -> None:
    """The upgrade is ignored, and the request handled as if it were not there (RFC 9110, 7.8)."""
    assert upgrade(web, path)[:13] in (
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 401 ",
        b"HTTP/1.1 404 ",
        b"HTTP/1.1 405 ",
    )


def all_of(connection: socket.socket) -> bytes:
    """Everything received until the other side closes."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def text_frame(text: str) -> bytes:
    """A short message of a client (RFC 6455, 5.2), with a mask that changes nothing."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "byte by byte"])
def test_the_socket_of_the_dagster_ui_answers(development: WebProcess, bytewise: bool) -> None:
    head = opening(development, Origin=development.url)
    with connected(development) as connection:
        for piece in [head[at : at + 1] for at in range(len(head))] if bytewise else [head]:
            connection.sendall(piece)
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 101")
        assert b"sec-websocket-protocol: graphql-ws" in answer.lower()
        connection.sendall(text_frame('{"type": "connection_init"}'))
        assert b"connection_ack" in connection.recv(4096)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Length": "34"}, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
        ({"Transfer-Encoding": "chunked"}, b"0\r\n\r\n"),
    ],
    ids=["a length", "chunks"],
)
def test_a_socket_is_not_opened_by_a_request_with_a_body(
    development: WebProcess, headers: dict[str, str], body: bytes
) -> None:
    with connected(development) as connection:
        connection.sendall(opening(development, **headers) + body)
        answer = all_of(connection)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"invalid_request"' in answer
    assert b"open a WebSocket with a GET without a body" in answer


def test_a_socket_with_an_empty_body_is_opened(development: WebProcess) -> None:
    with connected(development) as connection:
        connection.sendall(opening(development, **{"Content-Length": "0"}))
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")


def test_a_socket_is_not_opened_while_another_answer_is_awaited(development: WebProcess) -> None:
    with connected(development) as connection:
        connection.sendall(
            f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{development.port}\r\n\r\n".encode()
            + opening(development)
        )
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "more",
    [{f"X-{number}": "x" for number in range(150)}, {"X-Long": "x" * 9000}],
    ids=["many headers", "a long header"],
)
def test_a_socket_with_too_large_a_head_is_refused_at_once(
    development: WebProcess, more: dict[str, str]
) -> None:
    with connected(development) as connection:
        connection.sendall(opening(development, **more))
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b'"headers_too_large"' in answer


def test_a_websocket_on_a_path_outside_ascii_is_a_bad_request(development: WebProcess) -> None:
    with connected(development) as connection:
        connection.sendall(opening(development, "/graphqlé"))
        assert all_of(connection).startswith(b"HTTP/1.1 400")


def test_an_old_client_has_no_socket(development: WebProcess) -> None:
    """In HTTP/1.0 the upgrade is ignored (RFC 9110, 7.8)."""
    with connected(development) as connection:
        connection.sendall(opening(development, "/healthz", version="1.0"))
        assert all_of(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("wish", ["h2c", "foo", "TLS/1.0", "websocket", "websocket, h2c"])
def test_a_post_that_requests_another_upgrade_is_accepted_whole(
    development: WebProcess, wish: str, bytewise: bool
) -> None:
    body = json.dumps(EVENT).encode()
    host = f"127.0.0.1:{development.port}"
    head = (
        f"POST /e/x HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {wish}\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    asked = head.encode() + b"\r\n" + body + head.encode() + b"Connection: close\r\n\r\n" + body
    with connected(development) as connection:
        for piece in [asked[at : at + 1] for at in range(len(asked))] if bytewise else [asked]:
            connection.sendall(piece)
        answer = all_of(connection)
    assert answer.count(b"HTTP/1.1 200") == answer.count(b"HTTP/1.1") == 2
    assert count() == 2


def test_sockets_that_are_refused_leave_no_line_in_the_log(development: WebProcess) -> None:
    before = development.log()
    for path, headers in (
        ("/graphql", {"Origin": "https://evil.example"}),
        ("/graphql", {"Host": "evil.example"}),
        ("/nothing", {}),
    ):
        with connected(development) as connection:
            connection.sendall(opening(development, path, **headers))
            assert all_of(connection).startswith(b"HTTP/1.1 4")
    assert ask(development, "GET", "/healthz").status_code == 200
    assert "handshake" not in development.log().removeprefix(before)


def test_the_number_of_open_sockets_is_bounded(development: WebProcess) -> None:
    with ExitStack() as open_ones:
        answers = []
        for _ in range(501):
            connection = open_ones.enter_context(connected(development))
            connection.sendall(opening(development))
            answers.append(connection.recv(4096).split(b" ")[1])
        assert (answers[0], answers[-1]) == (b"101", b"503")
    wait_until(lambda: upgrade(development, "/graphql").startswith(b"HTTP/1.1 101"))


def test_a_socket_whose_client_reads_nothing_is_let_go(development: WebProcess) -> None:
    """It sends pings, and does not read the pongs."""
    pings = (bytes([0x89, 0x80 | 125, 0, 0, 0, 0]) + b"x" * 125) * 100_000
    sent = 0
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", development.port))
        mine = connection.getsockname()[1]
        connection.sendall(opening(development))
        assert connection.recv(4096).startswith(b"HTTP/1.1 101")
        connection.setblocking(False)

        def is_held() -> bool:
            nonlocal sent
            with suppress(BlockingIOError, ConnectionError):
                sent += connection.send(pings[sent : sent + 1_000_000])
            return any(
                found.raddr and found.raddr.port == mine
                for found in psutil.Process(development.pid).net_connections("tcp")
            )

        assert is_held()
        wait_until(lambda: not is_held(), 20)
    assert sent < len(pings)


def test_what_is_sent_before_a_socket_is_open_does_no_harm(development: WebProcess) -> None:
    before = development.log()
    for _ in range(20):
        with connected(development) as connection:
            connection.sendall(opening(development))
            connection.sendall(text_frame('{"type": "connection_init"}'))
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 101")
    assert "Traceback" not in development.log().removeprefix(before)


class OtherSite(FakeServer):
    """A page on another port of this machine."""

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        """The page itself."""
        request.answer(200, b"<!doctype html><title>Another site</title><p>Hello", "text/html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of another site, open in the browser."""
    with OtherSite() as site:
        page = browser.new_page()
        page.goto(site.url)
        yield page
        page.close()


# What the page learns of each attempt; for those it cannot read, not even that they were rejected.
TRIES = {
    "an image": "error",
    "a script": "error",
    "a form": "load",
    "a fetch that cannot read": "opaque",
    "a fetch of GraphQL": "opaque",
    "a fetch that wants to read": "error",
    "a fetch with JSON": "error",
    "a beacon": "sent",
    "a socket": "error",
    "an event source": "error",
    "a frame": "load",
}
_ATTACKS = (Path(__file__).parent / "attacks.js").read_text(encoding="utf-8").partition("\n")[2]


@pytest.mark.parametrize("way", TRIES)
def test_in_a_browser_a_page_of_another_port_gets_nowhere_by(
    development: WebProcess, page: Page, way: str
) -> None:
    before = runs()
    answers: list[int] = []
    tried: list[str] = []
    page.on("request", lambda request: tried.append(request.url))
    page.on("websocket", lambda opened: tried.append(opened.url))
    page.on("response", lambda answer: answers.append(answer.status))
    things = json.dumps({"launch": LAUNCH, "event": EVENT, "bounce": BOUNCE})
    assert (
        page.evaluate(f"([url, way]) => ({_ATTACKS})[way](url, {things})", [development.url, way])
        == TRIES[way]
    )
    assert any(str(development.port) in url for url in tried)
    assert set(answers) <= {403}
    assert (count(), count("app.suppressions"), runs()) == (0, 0, before)


def test_in_a_browser_a_link_leads_to_the_dev_page(development: WebProcess, page: Page) -> None:
    page.evaluate(
        "url => { document.body.innerHTML = `<a href='${url}/dev'>look</a>`; }", development.url
    )
    page.get_by_text("look").click()
    wait_until(lambda: "Events" in page.inner_text("body"))


def test_in_a_browser_the_dagster_ui_shows_its_jobs_and_its_socket_opens(
    development: WebProcess, browser: Browser
) -> None:
    page = browser.new_page()
    refused: list[str] = []
    page.on(
        "response",
        lambda answer: refused.append(answer.url) if answer.status in (403, 405, 415) else None,
    )
    page.goto(f"{development.url}/locations/tests.code/jobs")
    page.get_by_text("send_email").first.wait_for()
    assert page.evaluate(f"url => ({_ATTACKS})['a socket'](url)", development.url) == "open"
    page.close()
    assert refused == []
