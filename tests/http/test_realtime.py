"""Pages subscribe to what applications publish, with the SDKs and as any other client."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import inngest
import inngest.experimental.realtime as python_realtime
import pytest
import websockets
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_socket

from runyard.apps.realtime_tokens import SECONDS, InvalidToken, subscription_of, token_for
from runyard.apps.signatures import SigningKey
from runyard.gateway.http.broadcaster import Subscriber, TooSlow
from runyard.settings import settings
from tests.ports import free_port
from tests.sdk_apps import JAVASCRIPT_VERSIONS, install_javascript
from tests.tables import rows
from tests.web_process import WebProcess, web_in_development

KEY = "signkey-test-" + "ab12" * 16
BEARER = {"Authorization": f"Bearer {SigningKey('ab12' * 16).bearer}"}
SECONDS_TO_READ = 20
_BINARIES = Path(sys.executable).parent


class Reader:
    """`subscribing.mjs`: what it prints, line by line."""

    def __init__(self, folder: Path, url: str, channel: str, *topics: str) -> None:
        command = [
            _BINARIES / "node",
            "--experimental-websocket",
            "--no-warnings",
            folder / "subscribing.mjs",
            channel,
            *topics,
        ]
        self._process = subprocess.Popen(
            command,
            env={"PATH": str(_BINARIES) + ":/usr/bin:/bin", "INNGEST_DEV": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # node is started by a script, and must end with it
        )
        self._lines: Queue[str] = Queue()
        self._reading = Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def next(self) -> Any:
        """What it prints next."""
        return json.loads(self._lines.get(timeout=SECONDS_TO_READ))

    def publish(self, topic: str, **what: Any) -> None:
        """Have it publish `data`, or a `stream`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"topic": topic, **what}) + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Stop it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._reading.join(15)
        self._process.communicate()


@pytest.fixture(scope="module", params=JAVASCRIPT_VERSIONS)
def sdk(
    request: pytest.FixtureRequest,
    javascript: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of an SDK for JavaScript; for the old one with its package for realtime."""
    if request.param.startswith("4"):
        return javascript(request.param)
    more = {"@inngest/realtime": "0.4.7"}
    return install_javascript(tmp_path_factory.mktemp("sdk"), request.param, more)


@pytest.fixture
def reader(sdk: Path, developing: str) -> Iterator[Reader]:
    """A subscriber of the topics `progress` and `tokens` of the channel `user:1`."""
    made = Reader(sdk, developing, "user:1", "progress", "tokens")
    assert made.next() == "subscribed"
    yield made
    made.stop()


def published(url: str, topics: list[str], body: bytes, **more: Any) -> httpx.Response:
    params = {"channel": "user:1", "topic": topics, **more.pop("params", {})}
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return httpx.post(
        f"{url}/v1/realtime/publish", params=params, content=body, headers=headers, **more
    )


def token_of(url: str, *topics: str, headers: Mapping[str, str] | None = None) -> str:
    body = [{"channel": "user:1", "name": topic, "kind": "run"} for topic in topics]
    answer = httpx.post(f"{url}/v1/realtime/token", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jwt"])


@contextmanager
def socket(url: str, token: str, **more: Any) -> Iterator[ClientConnection]:
    at = f"{url.replace('http', 'ws')}/v1/realtime/connect?token={token}"
    with open_socket(at, **more) as opened:
        yield opened


def received(opened: ClientConnection) -> Any:
    return json.loads(opened.recv(SECONDS_TO_READ))


def test_a_page_gets_what_is_published_to_its_topics(reader: Reader, developing: str) -> None:
    published(developing, ["other"], b"1")
    published(developing, ["progress"], b'{"done": 5}', params={"run_id": "01RUN"})
    assert reader.next() == {
        "topic": "progress",
        "kind": "data",
        "data": {"done": 5},
        "runId": "01RUN",
    }


@pytest.mark.parametrize("data", [{"a": [1, None]}, 5, 0, False, "plain text", "é😀", [], "a\0b"])
def test_what_the_sdk_publishes_arrives_as_it_was(reader: Reader, data: Any) -> None:
    reader.publish("tokens", data=data)
    said = reader.next()
    expected = "a\ufffdb" if data == "a\0b" else data
    assert (said["topic"], said["data"]) == ("tokens", expected)


def test_a_stream_has_a_beginning_its_content_and_an_end(reader: Reader, developing: str) -> None:
    # The SDK publishes streams; its own subscriber fails at their beginning (4.24 and 3.54).
    with socket(developing, token_of(developing, "stream")) as opened:
        reader.publish("stream", stream="piece by piece")
        begin, chunk, end = (received(opened) for _ in range(3))
    assert [each["kind"] for each in (begin, chunk, end)] == [
        "datastream-start",
        "chunk",
        "datastream-end",
    ]
    assert (chunk["data"], chunk["stream_id"]) == ("piece by piece", begin["data"])
    assert end["data"] == begin["data"]


def test_the_sdk_for_python_publishes_and_hands_out_tokens(developing: str) -> None:
    client = inngest.Inngest(
        app_id="shop", is_production=False, api_base_url=developing, event_api_base_url=developing
    )

    token = python_realtime.get_subscription_token_sync(client, "user:1", ["progress"])
    with socket(developing, str(token["key"])) as opened:
        python_realtime.publish_sync(client, "user:1", "progress", {"done": 5})
        assert received(opened)["data"] == {"done": 5}
    client._http_client._http_client_sync.close()


def test_one_message_may_go_to_several_topics(developing: str) -> None:
    with socket(developing, token_of(developing, "progress", "tokens")) as opened:
        published(developing, ["progress", "tokens", "progress"], b"1")
        assert [received(opened)["topic"] for _ in range(2)] == ["progress", "tokens"]


def test_messages_come_in_order_and_once(developing: str) -> None:
    with socket(developing, token_of(developing, "progress")) as opened:
        for number in range(50):
            published(developing, ["progress"], str(number).encode())
        assert [received(opened)["data"] for _ in range(50)] == list(range(50))
        with pytest.raises(TimeoutError):
            opened.recv(0.5)


def test_what_another_process_publishes_arrives(developing: str, web_database_url: str) -> None:
    port = free_port()
    other = web_in_development(web_database_url, port)
    try:
        with socket(developing, token_of(developing, "progress")) as opened:
            published(f"http://127.0.0.1:{port}", ["progress"], b'"from there"')
            assert received(opened)["data"] == "from there"
    finally:
        other.terminate()
        other.wait(15)


def test_server_sent_events_bring_the_same(developing: str) -> None:
    token = token_of(developing, "progress")
    with httpx.stream(
        "GET", f"{developing}/v1/realtime/sse", params={"token": token}, timeout=20
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": subscribed"
        published(developing, ["progress"], b'{"text": "a\\nb"}')
        data = next(line for line in lines if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: "))["data"] == {"text": "a\nb"}


def test_a_message_has_a_limit(developing: str) -> None:
    assert published(developing, ["progress"], b"1" * 300_000).status_code == 413


@pytest.mark.parametrize(
    "params",
    [{"channel": ""}, {"channel": "x" * 251}, {"channel": "a\0b"}, {"topic": [""]}, {"other": "1"}],
)
def test_a_message_goes_to_a_channel_that_can_be(developing: str, params: Any) -> None:
    assert published(developing, ["progress"], b"1", params=params).status_code == 400


def test_old_messages_are_deleted(developing: str) -> None:
    published(developing, ["progress"], b'"old"')
    rows("UPDATE runyard.messages SET at = at - interval '1 minute' RETURNING 1")
    published(developing, ["progress"], b'"new"')
    assert [
        json.loads(row["message"])["data"] for row in rows("SELECT message FROM runyard.messages")
    ] == ["new"]


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "x" * 1_000])
def test_without_a_token_nothing_is_read(developing: str, token: str) -> None:
    answer = httpx.get(f"{developing}/v1/realtime/sse", params={"token": token})
    assert answer.status_code == 401
    with pytest.raises(websockets.InvalidStatus), socket(developing, quote(token)):
        pass


def changed(token: str, **claims: Any) -> str:
    """A token with other claims, and its old signature."""
    header, content, signature = token.split(".")
    old = json.loads(base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)))
    new = base64.urlsafe_b64encode(json.dumps({**old, **claims}).encode()).rstrip(b"=").decode()
    return f"{header}.{new}.{signature}"


def test_a_token_cannot_be_changed(developing: str) -> None:
    token = changed(token_of(developing, "progress"), topics=[{"channel": "user:2", "name": "x"}])
    answer = httpx.get(f"{developing}/v1/realtime/sse", params={"token": token})
    assert answer.status_code == 401


def test_a_token_without_a_signature_is_refused() -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    content = token_for([("user:1", "progress")]).split(".")[1]
    with pytest.raises(InvalidToken):
        subscription_of(f"{header}.{content}.")


def test_a_token_is_good_for_a_while() -> None:
    token = token_for([("user:1", "progress")], at=1_000)
    assert subscription_of(token, at=1_000 + SECONDS - 1).topics == {("user:1", "progress")}
    with pytest.raises(InvalidToken, match="has expired"):
        subscription_of(token, at=1_000 + SECONDS)


def test_with_the_signing_key_a_token_is_good_for_other_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNYARD_SIGNING_KEY", KEY)
    settings.cache_clear()
    token = token_for([("user:1", "progress")])
    monkeypatch.setenv("RUNYARD_SIGNING_KEY", "signkey-test-" + "cd" * 16)
    settings.cache_clear()
    with pytest.raises(InvalidToken):
        subscription_of(token)
    monkeypatch.setenv("RUNYARD_SIGNING_KEY_FALLBACK", KEY)
    settings.cache_clear()
    assert subscription_of(token).topics == {("user:1", "progress")}
    monkeypatch.undo()
    settings.cache_clear()


def test_a_subscriber_who_reads_too_slowly_is_cut_off() -> None:
    async def read() -> None:
        subscriber = Subscriber([("user:1", "progress")])
        for _ in range(1_001):
            subscriber.add("1")
        await subscriber.next(1)

    with pytest.raises(TooSlow):
        asyncio.run(read())


@pytest.fixture(scope="module")
def production(web_database_url: str) -> Iterator[str]:
    """The URL of a web process that has a signing key."""
    port = free_port()
    process = web_in_development(
        web_database_url, port, RUNYARD_SIGNING_KEY=KEY, RUNYARD_CORS_ORIGINS="https://shop.example"
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(15)


@pytest.mark.parametrize("path", ["publish?channel=a&topic=b", "token"])
@pytest.mark.parametrize("key", ["", "Bearer undefined", "Bearer " + "0" * 64])
def test_with_a_signing_key_nobody_else_publishes(production: str, path: str, key: str) -> None:
    headers = {"Authorization": key} if key else {}
    answer = httpx.post(f"{production}/v1/realtime/{path}", json=[], headers=headers)
    assert answer.status_code == 401


def test_with_the_signing_key_messages_are_published_and_read(production: str) -> None:
    with socket(production, token_of(production, "progress", headers=BEARER)) as opened:
        assert published(production, ["progress"], b"5", headers=BEARER).status_code == 200
        assert received(opened)["data"] == 5


def test_a_token_without_the_signing_key_is_none_there(production: str, developing: str) -> None:
    token = token_of(developing, "progress")
    answer = httpx.get(f"{production}/v1/realtime/sse", params={"token": token})
    assert answer.status_code == 401


def test_a_page_of_an_allowed_origin_subscribes(production: str) -> None:
    token = token_of(production, "progress", headers=BEARER)
    with socket(production, token, origin="https://shop.example") as opened:
        published(production, ["progress"], b"5", headers=BEARER)
        assert received(opened)["data"] == 5
    with httpx.stream(
        "GET",
        f"{production}/v1/realtime/sse",
        params={"token": token},
        headers={"Origin": "https://shop.example"},
    ) as answer:
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"


def test_a_page_of_another_origin_does_not(production: str, developing: str) -> None:
    for url, headers in ((production, BEARER), (developing, {})):
        token = token_of(url, "progress", headers=headers)
        with (
            pytest.raises(websockets.InvalidStatus),
            socket(url, token, origin="https://evil.example"),
        ):
            pass
        answer = httpx.post(
            f"{url}/v1/realtime/publish",
            params={"channel": "a", "topic": "b"},
            json=1,
            headers={**headers, "Origin": "https://evil.example"},
        )
        assert answer.status_code == 403


def test_in_production_a_subscriber_needs_a_token(web: WebProcess) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused, socket(web.url, "x"):
        pass
    assert refused.value.response.status_code == 403
    assert httpx.get(f"{web.url}/v1/realtime/sse?token=x").status_code == 401
