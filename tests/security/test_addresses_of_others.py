"""Requests to hostile servers that drip, flood, compress or redirect inward stay within limits."""

import contextlib
import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from resources.ai.generators import Allowance, Generated, Prompt
from resources.ai.openai_compatible import OpenAIGenerator
from resources.bounded_http import TooLarge
from resources.email.sendgrid_client import SendGridAccount
from resources.media.store import MediaStore
from resources.safe_http import Compressed, Forbidden, is_public, opened, read
from runyard.errors import NonRetriable

OK = b"HTTP/1.1 200 OK\r\n"
Talk = Callable[[socket.socket], None]


class Hostile:
    """A server that does what it likes with each connection; `requests` are the heads it got."""

    def __init__(self, talk: Talk, *, hears: bool = True) -> None:
        self.requests: list[bytes] = []
        self.gone = threading.Event()
        self._talk, self._hears = talk, hears
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.url = f"http://{self.host}/file"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listening.accept()[0]
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._hears:
                self.requests.append(connection.recv(65_536))
            self._talk(connection)
        self.gone.set()

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hostile]]:
    """Starts servers that may be called although they are on this machine."""
    made: list[Hostile] = []

    def make(talk: Talk, **more: Any) -> Hostile:
        made.append(Hostile(talk, **more))
        monkeypatch.setenv("RUNYARD_ALLOWED_HOSTS", ",".join(server.host for server in made))
        return made[-1]

    yield make
    for server in made:
        server.close()


def says(*pieces: bytes) -> Talk:
    """Sends this, and closes."""
    return lambda connection: [connection.sendall(piece) for piece in pieces] and None


def drips(before: bytes, piece: bytes = b"x") -> Talk:
    """Sends something, and then a piece every tenth of a second as long as anybody reads."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(before)
        while True:
            connection.sendall(piece)
            time.sleep(0.1)

    return talk


def fetch(url: str, *, seconds: float = 5.0, most: int = 1 << 20) -> bytes:
    with opened("GET", url, seconds=seconds, most=most) as response:
        return b"".join(read(response, most))


@pytest.mark.parametrize(
    "before",
    [
        b"",
        OK,
        OK + b"X-Long: ",
        b"HTTP/1.1 302 Found\r\nLocation: ",
        OK + b"Content-Length: 1000\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;",
    ],
)
def test_a_server_that_drips_is_left_at_the_deadline(hostile: Any, before: bytes) -> None:
    server = hostile(drips(before))
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="takes longer than"):
        fetch(server.url, seconds=0.6)
    assert 0.5 < time.monotonic() - began < 10
    assert server.gone.wait(5)


def test_early_hints_without_an_end_are_left_at_the_deadline(hostile: Any) -> None:
    server = hostile(drips(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"))
    with pytest.raises(ConnectionError, match="takes longer than"):
        fetch(server.url, seconds=0.6)


def test_redirects_share_one_deadline(hostile: Any) -> None:
    def talk(connection: socket.socket) -> None:
        time.sleep(0.4)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    server = hostile(talk)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="takes longer than"):
        fetch(server.url, seconds=1.0)
    assert time.monotonic() - began < 10


def test_a_handshake_that_does_not_end_is_left_at_the_deadline(hostile: Any) -> None:
    server = hostile(drips(b"\x16\x03\x03\x40\x00"))
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        fetch(server.url.replace("http:", "https:"), seconds=0.6)
    assert time.monotonic() - began < 10


def test_a_server_that_does_not_take_what_it_is_sent_is_left_at_the_deadline(hostile: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while connection.recv(512):
            time.sleep(0.05)

    server = hostile(talk, hears=False)
    began = time.monotonic()
    with (
        pytest.raises(ConnectionError),
        opened("POST", server.url, seconds=0.8, content=b"x" * (32 << 20)),
    ):
        pass
    assert time.monotonic() - began < 15


def test_no_thread_is_left_behind(hostile: Any) -> None:
    server = hostile(drips(OK))
    with pytest.raises(ConnectionError):
        fetch(server.url, seconds=0.4)
    assert server.gone.wait(5)
    ours = [
        thread.name
        for thread in threading.enumerate()
        if "look-up" in thread.name or isinstance(thread, threading.Timer)
    ]
    assert ours == []


def test_a_look_up_that_hangs_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [release.wait(20)][1:])
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="cannot be found"):
        fetch("http://slow.example/", seconds=0.4)
    release.set()
    assert time.monotonic() - began < 10


def test_an_answer_is_asked_for_as_it_is(hostile: Any) -> None:
    server = hostile(says(OK + b"Content-Length: 2\r\n\r\nhi"))
    assert fetch(server.url) == b"hi"
    assert b"\r\naccept-encoding: identity\r\n" in server.requests[0].lower()


@pytest.mark.parametrize(
    "encoding",
    ["gzip", "gzip, gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP", "unheard-of"],
)
def test_what_comes_compressed_is_refused_for_good(hostile: Any, encoding: str) -> None:
    server = hostile(
        says(OK + f"Content-Encoding: {encoding}\r\n\r\n".encode(), gzip.compress(b"x" * 1000))
    )
    with pytest.raises(Compressed, match="comes compressed"):
        fetch(server.url)


def test_a_bomb_costs_no_memory(hostile: Any) -> None:
    bomb = gzip.compress(gzip.compress(bytes(64 << 20), 9), 9)
    server = hostile(says(OK + b"Content-Encoding: gzip, gzip\r\n\r\n", bomb))
    tracemalloc.start()
    with pytest.raises(NonRetriable):
        fetch(server.url)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Content-Length: 5000000\r\n\r\n",
        b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_body_that_is_too_large_is_refused_for_good(hostile: Any, head: bytes) -> None:
    piece = b"x" * 65_536
    server = hostile(
        says(OK + head, *[b"10000\r\n" + piece + b"\r\n" if b"chunked" in head else piece] * 80)
    )
    with pytest.raises((TooLarge, ConnectionError)) as caught:
        fetch(server.url)
    assert isinstance(caught.value, TooLarge) or b"9999" in head


def test_headers_without_an_end_are_refused_early(hostile: Any) -> None:
    server = hostile(drips(OK, b"X-A: " + b"y" * 20_000 + b"\r\n"))
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="does not answer"):
        fetch(server.url, seconds=20)
    assert time.monotonic() - began < 15


def test_what_is_around_a_body_counts_too(hostile: Any) -> None:
    chunk = b"1;" + b"e" * 50_000 + b"\r\nx\r\n"
    server = hostile(says(OK + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 200))
    with pytest.raises(TooLarge):
        fetch(server.url, seconds=20)


def test_the_body_of_a_redirect_is_not_read(hostile: Any) -> None:
    sent: list[int] = []

    def talk(connection: socket.socket) -> None:
        if len(server.requests) > 1:
            return connection.sendall(OK + b"Content-Length: 2\r\n\r\nhi")
        connection.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 100000000\r\n\r\n"
        )
        for _ in range(1500):
            connection.sendall(b"x" * 65_536)
            sent.append(65_536)
        return None

    server = hostile(talk)
    assert fetch(server.url) == b"hi"
    assert sum(sent) < 50_000_000


def test_the_body_of_an_answer_to_a_webhook_is_not_read(hostile: Any) -> None:
    server = hostile(drips(OK + b"Content-Length: 1000000\r\n\r\n"))
    began = time.monotonic()
    with opened("POST", server.url, seconds=5, content=b"{}") as response:
        assert response.status_code == 200
    assert time.monotonic() - began < 4


def test_every_hop_has_a_connection_of_its_own(hostile: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n")
        server.requests.append(connection.recv(65_536))

    server = hostile(talk)
    with pytest.raises(Forbidden, match="redirects more than"):
        fetch(server.url)
    assert len([request for request in server.requests if request]) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "http://a:99999999/",
        "http://\x7f/",
        "http://" + "a." * 300 + "/",
        "http://a..b/",
    ],
)
def test_a_redirect_to_nothing_is_refused_for_good(hostile: Any, location: str) -> None:
    server = hostile(
        says(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    )
    with pytest.raises((Forbidden, ConnectionError)) as caught:
        fetch(server.url)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 200}example/",
        "http://example.com:99999/",
        "http://[::1",
        "http://\x00/",
    ],
)
def test_what_can_be_no_host_is_refused_for_good(url: str) -> None:
    with pytest.raises(Forbidden):
        fetch(url)


@pytest.mark.parametrize(
    "location",
    [
        "javascript:1",
        "data:x",
        "mailto:a",
        "http:1",
        "http://xn--/",
        "http://xn--a-/",
        "//xn--/",
        "http://x:٣/",
        "//x:٣/",
        "http://x:-1/",
        "http://x:+1/",
        "http://x:1_0/",
        "http://x:0/",
        "http://[v1.a]/",
        "http://" + "9" * 70_000,
    ],
)
def test_a_redirect_that_can_be_no_url_of_a_server_is_forbidden(
    hostile: Any, location: str
) -> None:
    server = hostile(
        says(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    )
    with pytest.raises(Forbidden) as caught:
        fetch(server.url)
    assert len(str(caught.value)) < 600


def test_a_posts_odd_redirect_is_forbidden_too(hostile: Any) -> None:
    server = hostile(
        says(b"HTTP/1.1 302 Found\r\nLocation: javascript:1\r\nContent-Length: 0\r\n\r\n")
    )
    with (
        pytest.raises(Forbidden, match="use the URL that it leads to"),
        opened("POST", server.url, seconds=5, content=b"{}"),
    ):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "http://xn--/",
        "http://xn--a-/",
        "http://x/\udc80",
        "http://x/?\udc80",
        "http://x/#\udc80",
        "http://\udc80@x/",
        "http://1.1.1.1:٣/",
        "http://[2606:4700::1111]:٣/",
        "http://1.1.1.1:-1/",
        "http://1.1.1.1:+1/",
        "http://1.1.1.1:1_0/",
        "http://1.1.1.1: 1/",
        "http://1.1.1.1:0/",
    ],
)
def test_a_url_that_cannot_be_read_is_forbidden(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: []
    )  # no real server is called, whatever comes of it
    with pytest.raises(Forbidden):
        fetch(url, seconds=1)


def test_another_server_gets_neither_headers_nor_cookies(hostile: Any) -> None:
    def talk(connection: socket.socket) -> None:
        to = other.url if len(first.requests) > 1 else "/again"
        connection.sendall(
            f"HTTP/1.1 302 Found\r\nLocation: {to}\r\n".encode()
            + b"Set-Cookie: visit=1; Path=/\r\nContent-Length: 0\r\n\r\n"
        )

    other, first = hostile(says(OK + b"Content-Length: 0\r\n\r\n")), hostile(talk)
    with opened("GET", first.url, seconds=5, headers={"X-Token": "hush"}):
        pass
    assert [b"hush" in request for request in first.requests] == [True, True]
    assert [b"visit=1" in request for request in first.requests] == [False, True]
    assert [b"hush" in request or b"visit=1" in request for request in other.requests] == [False]


def test_the_host_that_is_looked_up_is_the_one_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: seen.append(host) or [])
    with pytest.raises(ConnectionError, match="cannot be found"):
        fetch("http://straße.example/")
    assert seen == ["xn--strae-oqa.example"]


def test_an_odd_retry_after_header_raises_no_error_of_ours(hostile: Any) -> None:
    server = hostile(says(b"HTTP/1.1 503 Busy\r\nRetry-After: \xb2\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(ConnectionError, match="answers 503"):
        fetch(server.url)


@pytest.mark.parametrize(
    "address",
    [
        "::10.1.2.3",
        "::808:808",
        "::ffff:0:10.1.2.3",
        "::ffff:0:808:808",
        "64:ff9b:1::808:808",
        "64:ff9b::10.1.2.3",
        "fec0::1",
        "192.88.99.1",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "100.64.0.1",
        "100.100.100.200",
        "198.18.0.1",
        "192.0.0.192",
        "240.0.0.1",
        "255.255.255.255",
        "2001:db8::1",
        "2002:808:808::1",
        "2001:0:808:808::1",
        "2001:10::1",
        "3fff::1",
        "5f00::1",
        "ff02::1",
        "ff0e::1",
        "fe80::1",
        "0.1.2.3",
        "0.0.0.0",
        "::",
        "::1",
        "fd00:ec2::254",
        "100::1",
        "4000::1",
        "203.0.113.1",
        "198.51.100.1",
        "192.0.2.1",
    ],
)
def test_an_address_of_another_purpose_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "192.0.1.1",
        "168.63.129.17",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "64:ff9b::808:808",
        "::ffff:8.8.8.8",
    ],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[fe80::1%25lo]",
        "localhost.",
        "127.0.0.1.",
        "１２７.0.0.1",
    ],
)
def test_no_other_way_to_write_an_address_leads_inward(host: str) -> None:
    with pytest.raises((Forbidden, ConnectionError)) as caught:
        fetch(f"http://{host}:1/", seconds=5)
    assert "does not answer" not in str(caught.value)


def test_the_address_of_a_name_is_not_revealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", 80))],
    )
    with pytest.raises(Forbidden) as caught:
        fetch("http://inside.example/")
    assert "inside.example" in str(caught.value)
    assert "10.1.2.3" not in str(caught.value)


def test_a_certificate_is_still_asked_for(hostile: Any, tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
    )
    certificate = (
        builder.not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(65_536)
            secure.sendall(OK + b"Content-Length: 2\r\n\r\nhi")

    server = hostile(talk, hears=False)
    with pytest.raises(ConnectionError, match="does not answer"):
        fetch(server.url.replace("http:", "https:"))


@pytest.mark.parametrize(
    "name", ["n" * 300, "a\x00b", "n" * 3000, "a/" * 900, "../" * 500, "😀" * 100, "."]
)
def test_an_odd_name_of_an_upload_is_refused_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MEDIA_UPLOADS", str(tmp_path))
    with pytest.raises(NonRetriable) as caught:
        MediaStore().fetch(name, tmp_path / "into", 100)
    assert len(str(caught.value)) < 1000


def test_links_in_a_circle_are_refused_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIA_UPLOADS", str(tmp_path))
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(NonRetriable):
        MediaStore().fetch("a", tmp_path / "into", 100)


def part(text: str) -> bytes:
    return chunk(b'{"content":"%s"}' % text.encode())


def chunk(delta: bytes, reason: bytes = b"null") -> bytes:
    """A chunk of a chat completion."""
    choice = b'{"index":0,"delta":%s,"finish_reason":%s}' % (delta, reason)
    head = b'"id":"1","object":"chat.completion.chunk","created":1,"model":"m"'
    return b'data: {%s,"choices":[%s]}\n\n' % (head, choice)


STREAM = OK + b"Content-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize("piece", [part("word "), b": still here\n\n", b"x"])
def test_a_text_that_never_ends_is_given_up(hostile: Any, piece: bytes) -> None:
    server = hostile(drips(STREAM + part("begun "), piece))
    generator = OpenAIGenerator("key", f"http://{server.host}/v1", timeout=0.2)
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        generator.generate(Prompt(prompt="x"))
    assert time.monotonic() - began < 15
    assert server.gone.wait(5)


def test_a_text_may_take_longer_than_the_timeout_of_a_piece(hostile: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(STREAM)
        for _ in range(6):
            time.sleep(0.6)
            connection.sendall(part("word "))
        connection.sendall(chunk(b"{}", b'"stop"'))
        connection.sendall(b"data: [DONE]\n\n")

    server = hostile(talk)
    made = OpenAIGenerator("key", f"http://{server.host}/v1", timeout=3.0).generate(
        Prompt(prompt="x")
    )
    assert isinstance(made, Generated)
    assert made.text == "word " * 6


@pytest.mark.parametrize(
    ("allowance", "piece"), [(Allowance(60), "x" * 5_000_000), (Allowance(0), "x")]
)
def test_an_answer_of_any_provider_is_given_up_when_it_is_too_much(
    allowance: Allowance, piece: str
) -> None:
    with pytest.raises(ConnectionError, match="the provider's answer"):
        allowance.take(piece)


@pytest.mark.parametrize(
    "talk",
    [
        drips(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n"),
        says(b"HTTP/1.1 400 Bad\r\n\r\n", *[b"x" * 65_536] * 40),
    ],
)
def test_an_answer_of_sendgrid_that_does_not_end_is_given_up(hostile: Any, talk: Talk) -> None:
    server = hostile(talk)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="SendGrid"):
        SendGridAccount("key", f"http://{server.host}", 0.5).send({"subject": "x"})
    assert time.monotonic() - began < 15
