"""What an unidentified client may use: bytes, connections, time. Other clients are not affected."""

import base64
import hmac
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from itertools import pairwise

import httpx
import psutil
import pytest

from runyard.engine import api_keys
from runyard.store import database
from tests.conftest import wait_until
from tests.security.conftest import SIGNING_SECRET
from tests.web_process import WebProcess, count

MIB = 1024 * 1024
CONNECTIONS, AN_ADDRESS, CLIENT_SECONDS = 24, 8, 6
BEFORE_THE_TIMEOUT = CLIENT_SECONDS - 1
ASK = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = {"name": "greet/requested", "data": {"who": "Ada"}}
SIGNED = {"webhook-id": "msg_1", "webhook-signature": "v1,none"}


@pytest.fixture(scope="module")
def small(
    web: WebProcess, security_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebProcess]:
    """A web process with low limits on connections, memory for bodies and unknown keys."""
    made = WebProcess(
        security_url,
        tmp_path_factory.mktemp("small") / "log",
        RUNYARD_CONNECTIONS=str(CONNECTIONS),
        RUNYARD_CONNECTIONS_PER_ADDRESS=str(AN_ADDRESS),
        RUNYARD_BODY_BYTES=str(64 * MIB),
        RUNYARD_UNKNOWN_KEY_RATE_LIMIT="0.25",
        RUNYARD_CLIENT_TIMEOUT=str(CLIENT_SECONDS),
        RUNYARD_SIGNING_SECRETS=SIGNING_SECRET,
    )
    made.keys = web.keys
    made.start()
    yield made
    made.stop()


def connect(web: WebProcess, address: str = "127.0.0.1") -> socket.socket:
    """A connection from one of this machine's own addresses."""
    return socket.create_connection(
        ("127.0.0.1", web.port), timeout=20, source_address=(address, 0)
    )


def answer_of(connection: socket.socket) -> bytes:
    """Everything received until the other side closes; empty after a reset."""
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def sent(web: WebProcess, *pieces: bytes) -> bytes:
    """The response to these bytes."""
    with connect(web) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer_of(connection)


def code_of(answer: bytes) -> tuple[int, str]:
    """The status and the code of an error."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)
    assert {"status", "code", "error", "request_id"} <= error.keys()
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), error["code"]


def closed(connection: socket.socket) -> bool:
    """Whether the other side has closed."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def status_from(web: WebProcess, address: str, path: str = "/healthz") -> int:
    """The status of a request from this address."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=20) as http:
        return http.get(f"{web.url}{path}").status_code


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * 300_000], (431, "headers_too_large")),
        (
            [b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: a\r\n" * 300, b"\r\n"],
            (431, "headers_too_large"),
        ),
        ([b"GET /", b"a" * 40_000, b" HTTP/1.1\r\nHost: x\r\n\r\n"], (414, "target_too_long")),
        ([CHUNKED, b"1;", b"a" * 300_000], (431, "headers_too_large")),
        ([CHUNKED, b"1;a\r\nx\r\n0\r\n", b"A: a\r\n" * 50_000], (431, "headers_too_large")),
        ([b"\x16\x03\x01 is no HTTP\r\n\r\n"], (400, "invalid_request")),
    ],
    ids=["a header", "headers", "a target", "an extension of a chunk", "trailers", "no HTTP"],
)
def test_what_stands_before_and_around_a_body_is_bounded(
    web: WebProcess, pieces: list[bytes], expected: tuple[int, str]
) -> None:
    assert code_of(sent(web, *pieces)) == expected


def test_headers_within_the_limit_are_taken(web: WebProcess) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 300) for number in range(190))
    assert sent(
        web, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n"
    ).startswith(b"HTTP/1.1 200")


def test_an_endless_header_blocks_nobody(web: WebProcess) -> None:
    """A server that joins its pieces again and again would block everybody for seconds."""

    def send() -> None:
        with connect(web) as connection, suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * (150 * MIB))

    sender = threading.Thread(target=send)
    sender.start()
    longest = 0.0
    while sender.is_alive():
        began = time.monotonic()
        assert web.get("/healthz", None).status_code == 200
        longest = max(longest, time.monotonic() - began)
    assert longest < 2


def test_a_connection_may_send_a_few_requests_ahead(web: WebProcess) -> None:
    assert (
        sent(web, ASK * 20 + ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).count(
            b"HTTP/1.1 200"
        )
        == 21
    )


def test_a_request_may_begin_before_the_answer_to_the_one_before_it(web: WebProcess) -> None:
    head, rest = (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-",
        b"Id: the-second\r\nConnection: close\r\n\r\n",
    )
    with connect(web) as connection:
        connection.sendall(ASK + head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(rest)
        assert b"x-request-id: the-second" in answer_of(connection)


def test_a_connection_that_sends_thousands_ahead_is_closed_behind_some_of_them(
    web: WebProcess,
) -> None:
    answers = sent(web, ASK * 3000)
    assert answers.count(b"HTTP/1.1 200") == answers.count(b"HTTP/1.1") == 33


def test_silent_connections_do_not_lock_others_out(web: WebProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    with ExitStack() as silent:
        for number in range(2050):
            silent.enter_context(connect(web, f"127.0.0.{2 + number % 3}"))
        assert [status_from(web, f"127.0.0.{last}") for last in (1, 2, 9)] == [200, 200, 200]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_connection_of_an_address_that_was_idle_longest_makes_room(small: WebProcess) -> None:
    with ExitStack() as open_ones:
        other = open_ones.enter_context(connect(small, "127.0.0.3"))
        mine = [open_ones.enter_context(connect(small, "127.0.0.2")) for _ in range(AN_ADDRESS + 2)]
        wait_until(lambda: closed(mine[1]), BEFORE_THE_TIMEOUT)
        assert [closed(connection) for connection in mine] == [True, True, *[False] * AN_ADDRESS]
        assert not closed(other)


def test_a_connection_that_is_kept_open_makes_room_and_one_with_a_request_in_progress_does_not(
    small: WebProcess,
) -> None:
    with ExitStack() as open_ones:
        kept = open_ones.enter_context(connect(small, "127.0.0.2"))
        kept.sendall(ASK)
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        busy = [open_ones.enter_context(connect(small, "127.0.0.2")) for _ in range(AN_ADDRESS - 1)]
        for connection in busy:
            connection.sendall(unfinished(small))
        wait_until(lambda: status_from(small, "127.0.0.2") == 200, BEFORE_THE_TIMEOUT)
        wait_until(lambda: closed(kept), BEFORE_THE_TIMEOUT)
        assert not any(closed(connection) for connection in busy)


def clients_from(web: WebProcess, address: str) -> int:
    """How many connections from this address the process has accepted."""
    connections = psutil.Process(web.pid).net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr.ip == address for each in connections)


def unfinished(web: WebProcess) -> bytes:
    """A POST whose body never ends."""
    return f"POST /e/{web.keys['send']} HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n[".encode()


def test_a_new_connection_is_told_to_retry_when_all_others_are_busy(
    small: WebProcess,
) -> None:
    with ExitStack() as open_ones:
        for _ in range(AN_ADDRESS):
            open_ones.enter_context(connect(small, "127.0.0.2")).sendall(unfinished(small))
        wait_until(lambda: clients_from(small, "127.0.0.2") == AN_ADDRESS)
        began = time.monotonic()
        with connect(small, "127.0.0.2") as refused:
            refused.sendall(ASK)
            answer = answer_of(refused)
        assert code_of(answer) == (503, "busy")
        assert b"Retry-After: 1" in answer
        assert time.monotonic() - began < CLIENT_SECONDS
        assert status_from(small, "127.0.0.3") == 200
    wait_until(lambda: status_from(small, "127.0.0.2") == 200)


def get_with_key(path: str, key: str) -> bytes:
    """A GET request with a key."""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    return head.encode()


def large_answer(web: WebProcess) -> str:
    """The path of an invocation whose steps have outputs of 16 MB."""
    invocation = invocation_of(web)
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runyard.steps"
            " (invocation_id, step, attempt, output, started_at, finished_at)"
            " SELECT %s, 'step ' || n, 1, to_jsonb(repeat('x', 4000000)), now(), now()"
            " FROM generate_series(1, 4) AS n",
            (invocation,),
        )
    return f"/api/invocations/{invocation}"


def test_a_client_that_does_not_read_its_answer_is_let_go(small: WebProcess) -> None:
    """The response is larger than the system's buffers for a connection."""
    path = large_answer(small)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", small.port))
        mine = connection.getsockname()[1]

        def is_held() -> bool:
            return any(
                found.raddr and found.raddr.port == mine
                for found in psutil.Process(small.pid).net_connections("tcp")
            )

        connection.sendall(get_with_key(path, small.keys["read"]))
        connection.recv(1)
        assert is_held()
        wait_until(lambda: not is_held(), 3 * CLIENT_SECONDS)


def test_an_answer_that_is_read_slowly_comes_whole(small: WebProcess) -> None:
    with httpx.stream(
        "GET", small.url + large_answer(small), headers=bearer(small, "read"), timeout=30
    ) as answer:
        size, began = 0, time.monotonic()
        for piece in answer.iter_raw(chunk_size=100_000):
            size += len(piece)
            time.sleep(0.06)
    assert size == int(answer.headers["content-length"]) > 8_000_000
    assert time.monotonic() - began > CLIENT_SECONDS


def test_a_stream_that_is_quiet_lives(small: WebProcess) -> None:
    invocation = invocation_of(small)
    with httpx.stream(
        "GET",
        f"{small.url}/api/invocations/{invocation}/stream",
        headers=bearer(small, "read"),
        timeout=30,
    ) as answer:
        lines = answer.iter_lines()
        began = time.monotonic()
        while ": still here" not in next(lines):
            pass
        assert time.monotonic() - began > 2 * CLIENT_SECONDS


def invocation_of(web: WebProcess) -> int:
    """An invocation that no worker runs."""
    [event] = web.send(EVENT)
    return int(web.get(f"/api/events/{event}/invocations", "read").json()["invocations"][0]["id"])


def bearer(web: WebProcess, key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {web.keys[key]}"}


def test_a_key_has_a_bounded_number_of_streams(web: WebProcess) -> None:
    invocation = invocation_of(web)
    request = get_with_key(f"/api/invocations/{invocation}/stream", web.keys["read"])
    with ExitStack() as open_ones:
        for _ in range(500):
            connection = open_ones.enter_context(connect(web))
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        refused = web.get(f"/api/invocations/{invocation}/stream", "read")
        assert (refused.status_code, refused.json()["code"]) == (503, "busy")
        assert refused.headers["retry-after"] == "10"
        with httpx.stream(
            "GET", f"{web.url}/api/invocations/{invocation}/stream", headers=bearer(web, "all")
        ) as of_another_key:
            assert of_another_key.status_code == 200


def signed_head(size: int) -> bytes:
    """The head of a POST that claims to be signed, with a body of this size."""
    lines = "".join(
        f"{name}: {value}\r\n"
        for name, value in {**SIGNED, "webhook-timestamp": str(int(time.time()))}.items()
    )
    return f"POST /api/events HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n{lines}\r\n".encode()


def test_bodies_of_one_unknown_sender_leave_room_for_those_of_others(small: WebProcess) -> None:
    """An unidentified sender may use half of 24 MiB here."""
    with (
        connect(small, "127.0.0.2") as first,
        connect(small, "127.0.0.2") as second,
        connect(small, "127.0.0.3") as another,
    ):
        first.sendall(signed_head(10 * MIB) + b" " * (9 * MIB))
        time.sleep(0.3)  # the process reads it; nothing shows how far it is
        second.sendall(signed_head(4 * MIB))
        began = time.monotonic()
        refused = b""
        while b"}" not in refused:
            refused += second.recv(65536)
        assert refused.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in refused.lower()
        assert b'"busy"' in refused
        assert time.monotonic() - began < CLIENT_SECONDS
        another.sendall(signed_head(9 * MIB) + b" " * (9 * MIB))
        assert another.recv(65536).startswith(b"HTTP/1.1 401")
        first.sendall(b" " * MIB)
        assert first.recv(65536).startswith(b"HTTP/1.1 401")
    with connect(small, "127.0.0.2") as again:
        again.sendall(signed_head(10 * MIB) + b" " * (10 * MIB))
        assert again.recv(65536).startswith(b"HTTP/1.1 401")


def test_a_body_in_chunks_is_counted_as_it_comes(small: WebProcess) -> None:
    head = signed_head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"%x\r\n%s\r\n" % (MIB, b" " * MIB)
    with connect(small, "127.0.0.4") as first, connect(small, "127.0.0.4") as second:
        first.sendall(head + 9 * chunk)
        time.sleep(0.3)  # the process reads it; nothing shows how far it is
        second.sendall(head + 4 * chunk)
        assert second.recv(65536).startswith(b"HTTP/1.1 503")


def test_a_process_does_not_grow_with_what_strangers_send(small: WebProcess) -> None:
    """Sixteen clients at eight addresses send 10 MiB each, and never finish."""
    before = psutil.Process(small.pid).memory_info().rss
    with ExitStack() as open_ones:
        for number in range(16):
            connection = open_ones.enter_context(connect(small, f"127.0.1.{number // 2}"))
            connection.sendall(signed_head(10 * MIB))
            connection.settimeout(0.5)
            try:
                connection.sendall(b" " * (10 * MIB - 1))
            except (TimeoutError, ConnectionError):
                pass
        assert psutil.Process(small.pid).memory_info().rss - before < 80 * MIB


@pytest.mark.parametrize(
    ("path", "key", "size", "most"),
    [
        ("/webhooks/github", None, 25 * MIB, "25600 KiB"),
        ("/functions/v1/send-email", "send", 2 * MIB, "2048 KiB"),
        ("/api/bulk/cancel", "manage", 2 * MIB, "2048 KiB"),
    ],
)
def test_a_body_is_refused_beyond_what_its_endpoint_takes(
    web: WebProcess, path: str, key: str | None, size: int, most: str
) -> None:
    refused = web.post(path, key=key, content=b"x" * (size + 1))
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert most in refused.json()["error"]
    assert web.post(path, key=key, content=b"x" * size).status_code in (400, 401)


def test_an_event_of_the_largest_size_is_taken_however_its_letters_are_written(
    web: WebProcess,
) -> None:
    body = json.dumps(
        {"event": "greet/requested", "data": {"text": "ж" * 260_000}}, ensure_ascii=True
    )
    assert len(body) > 1.4 * MIB
    assert web.post("/api/inngest/trigger", key="send", content=body).status_code == 202


def test_a_bulk_of_ten_thousand_ids_is_taken(web: WebProcess) -> None:
    [event] = web.send(EVENT)
    chosen = {
        "events": [event] * 10_000,
        "invocations": [2**63 - 1 - number for number in range(10_000)],
        "dry_run": True,
    }
    assert web.post("/api/bulk/cancel", chosen, "manage").json() == {"total": 0}


def test_what_is_typed_to_log_in_is_short(web: WebProcess) -> None:
    refused = httpx.post(f"{web.url}/dev/login", content=b"key=" + b"x" * 20_000)
    assert "the body is larger than 16384 bytes" in refused.text


def seconds_for(web: WebProcess, path: str, headers: dict[str, str], body: bytes = b"") -> float:
    """The time of a response, the best of three."""
    found = []
    for _ in range(3):
        began = time.monotonic()
        httpx.request(
            "POST" if body else "GET", f"{web.url}{path}", headers=headers, content=body, timeout=60
        )
        found.append(time.monotonic() - began)
    return min(found)


def test_a_cookie_takes_time_as_its_length(web: WebProcess) -> None:
    short, long = (
        seconds_for(web, "/dev/login", {"Cookie": 'a="' + '\\"' * size + '"'})
        for size in (3_000, 30_000)
    )
    assert long < 40 * max(short, 0.01)


def test_many_signatures_take_no_longer_than_one(web: WebProcess) -> None:
    headers = {"webhook-id": "1", "webhook-timestamp": str(int(time.time()))}
    one, many = (
        seconds_for(
            web,
            "/api/events",
            {**headers, "webhook-signature": " ".join(["v1,x"] * times)},
            b" " * (2 * MIB),
        )
        for times in (1, 5_000)
    )
    assert many < 10 * max(one, 0.02)


def test_a_right_signature_behind_wrong_ones_is_found(web: WebProcess) -> None:
    body, timestamp = json.dumps(EVENT).encode(), str(int(time.time()))
    mac = hmac.new(
        base64.b64decode(SIGNING_SECRET.removeprefix("whsec_")),
        f"msg_1.{timestamp}.".encode() + body,
        sha256,
    ).digest()
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,wrong v1,{base64.b64encode(mac).decode()}",
    }
    assert web.post("/api/events", key=None, content=body, headers=headers).status_code == 200
    assert count() == 1


class Guesser(threading.Thread):
    """Tries one key after another, until it is stopped."""

    def __init__(self, web: WebProcess, address: str) -> None:
        super().__init__()
        self._web = web
        self._address = address
        self._over = threading.Event()
        self.answers: list[httpx.Response] = []
        self.moments: list[float] = []

    def run(self) -> None:
        with httpx.Client(
            transport=httpx.HTTPTransport(local_address=self._address), timeout=20
        ) as http:
            while not self._over.is_set():
                self.answers.append(
                    http.post(f"{self._web.url}/e/guess-number-{len(self.answers)}", json=EVENT)
                )
                self.moments.append(time.monotonic())

    def stop(self) -> None:
        self._over.set()
        self.join()


def test_guessing_keys_slows_only_the_guesser(small: WebProcess) -> None:
    guesser = Guesser(small, "127.0.0.6")
    guesser.start()
    try:
        wait_until(
            lambda: (
                len(guesser.moments) > 3
                and max(later - earlier for earlier, later in pairwise(guesser.moments)) > 0.9
            )
        )
        made = [
            api_keys.create(f"made meanwhile {number}", ["send"], per_second=1000)[1]
            for number in range(10)
        ]
        with httpx.Client(
            transport=httpx.HTTPTransport(local_address="127.0.0.6"), timeout=20
        ) as neighbour:
            for keys in (made, [small.keys["send"]] * 10):
                # Ten requests of a slowed client would take ten seconds.
                began = time.monotonic()
                assert {
                    neighbour.post(f"{small.url}/e/{key}", json=EVENT).status_code for key in keys
                } == {200}
                assert time.monotonic() - began < 5
    finally:
        guesser.stop()
    assert {answer.status_code for answer in guesser.answers} == {401}
    assert guesser.answers[-1].json()["error"] == "Event key not found"
    told = [line for line in small.log().splitlines() if "an unknown key" in line]
    assert 1 <= len(told) < 6
    assert "guess-number" not in small.log()


def test_the_database_is_asked_a_few_times_a_second_however_many_keys_are_not_known(
    web: WebProcess, security_url: str
) -> None:
    def reads() -> int:
        with database.connection() as connection:
            row = connection.execute(
                "SELECT seq_scan + coalesce(idx_scan, 0) AS n"
                " FROM pg_stat_user_tables WHERE relname = 'keys'"
            ).fetchone()
        assert row is not None
        return int(str(row["n"]))

    guessers = [Guesser(web, f"127.0.0.{last}") for last in range(20, 28)]
    before, began = reads(), time.monotonic()
    for guesser in guessers:
        guesser.start()
    time.sleep(3)  # the time over which the reads are counted
    for guesser in guessers:
        guesser.stop()
    seconds = time.monotonic() - began
    wait_until(lambda: reads() > before)
    assert reads() - before < 10 * seconds


def test_an_address_with_too_many_unknown_keys_at_a_time_is_told_to_wait(small: WebProcess) -> None:
    guessers = [Guesser(small, "127.0.0.7") for _ in range(AN_ADDRESS)]
    for guesser in guessers:
        guesser.start()
    try:
        [refused] = wait_until(
            lambda: [
                answer
                for guesser in guessers
                for answer in guesser.answers
                if answer.status_code == 429
            ][:1]
        )
    finally:
        for guesser in guessers:
            guesser.stop()
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("rate_limited", "1")
    assert "wait" in refused.json()["error"]


def test_a_filter_that_would_take_minutes_is_stopped(web: WebProcess) -> None:
    with database.connection() as connection:
        connection.execute(
            "SELECT runyard.send('greet/requested', jsonb_build_object("
            "'text', repeat('a', 20000),"
            " 'many', (SELECT jsonb_agg(n) FROM generate_series(1, 5000) AS n)))"
            " FROM generate_series(1, 300)"
        )
    nested = "$.** ? (@ == " + " || @ == ".join(f"$.**.a{number}" for number in range(3)) + ")"
    found: list[httpx.Response] = []
    asked = [
        ("/api/bulk/cancel", {"filter": nested, "dry_run": True}),
        ("/api/bulk/cancel", {"filter": nested}),
    ]
    threads = [
        threading.Thread(
            target=lambda path=path, body=body: found.append(web.post(path, body, "manage"))
        )
        for path, body in asked
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(answer.status_code, answer.json()["code"]) for answer in found] == [
        (400, "query_timeout")
    ] * 2
    assert time.monotonic() - began < 15
    assert count("runyard.bulks") == 0


# A request that would get a response if a body were mistaken for one.
SMUGGLED = b"GET /healthz?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
WISHES = ["h2c", "h2c, HTTP2-Settings", "foo", "TLS/1.0", "websocket", "h2c\r\nUpgrade: foo"]
LAST = ASK.replace(b"\r\n\r\n", b"\r\nX-Request-Id: the-last\r\nConnection: close\r\n\r\n")


def wishing(
    web: WebProcess,
    wish: str,
    body: bytes,
    *,
    method: str = "POST",
    chunked: bool = False,
    version: str = "1.1",
) -> bytes:
    """A request of a client that offers an upgrade to another protocol."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    sent_as = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    lines = [
        f"{method} /e/{web.keys['send']} HTTP/{version}",
        "Host: x",
        "Connection: keep-alive, Upgrade",
        f"Upgrade: {wish}",
        framing,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + sent_as


def bytewise(data: bytes) -> list[bytes]:
    """These bytes, one by one."""
    return [bytes([byte]) for byte in data]


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("wish", WISHES)
def test_the_body_behind_a_wish_for_another_protocol_is_not_the_next_request(
    web: WebProcess, wish: str, chunked: bool
) -> None:
    head, _, body = wishing(web, wish, SMUGGLED, chunked=chunked).partition(b"\r\n\r\n")
    with connect(web) as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body + LAST)
        answers = answer_of(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"400", b"200"]
    assert b"invalid_json" in answers
    assert b"x-request-id: the-last" in answers


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "OPTIONS", "REPORT"])
def test_nor_is_it_with_any_other_method(web: WebProcess, method: str) -> None:
    head, _, body = wishing(web, "h2c", SMUGGLED, method=method).partition(b"\r\n\r\n")
    with connect(web) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1")
        connection.sendall(body + LAST)
        assert answer_of(connection).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("wish", WISHES)
def test_a_post_that_wishes_for_another_protocol_is_taken_whole(
    web: WebProcess, wish: str, chunked: bool, cut: Callable[[bytes], list[bytes]]
) -> None:
    answers = sent(
        web, *cut(2 * wishing(web, wish, json.dumps(EVENT).encode(), chunked=chunked) + LAST)
    )
    assert answers.count(b"HTTP/1.1 200") == answers.count(b"HTTP/1.1") == 3
    assert count() == 2


def test_a_wish_of_an_old_client_is_ignored_and_the_connection_closed(web: WebProcess) -> None:
    body = json.dumps(EVENT).encode()
    answers = sent(web, wishing(web, "h2c", body, version="1.0").replace(b"keep-alive, ", b""))
    assert answers.startswith(b"HTTP/1.1 200")
    assert count() == 1


def test_a_wish_does_not_lengthen_what_may_be_sent(web: WebProcess) -> None:
    head = wishing(web, "h2c", b"").removesuffix(b"\r\n\r\n")
    assert code_of(sent(web, head, b"\r\nA: a" * 300 + b"\r\n\r\n")) == (431, "headers_too_large")
    answers = sent(
        web,
        ASK[:-2] + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n",
        wishing(web, "h2c", b"{}") * 3000,
    )
    # Of the others as many as may wait, beside one that may have begun before they came.
    assert answers.count(b"HTTP/1.1") in (33, 34)


@pytest.mark.parametrize("target", [b"x:80", b"/", b"/healthz"])
def test_nothing_behind_the_wish_for_a_tunnel_is_read(web: WebProcess, target: bytes) -> None:
    answer = sent(
        web,
        b"CONNECT "
        + target
        + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
        SMUGGLED,
    )
    assert code_of(answer) == (405, "method_not_allowed")
