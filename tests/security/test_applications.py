"""Applications are not trusted: where calls go, what answers may be, and who is believed."""

import asyncio
import gzip
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runyard.apps import catalog
from runyard.apps.answers import Answer
from runyard.apps.calls import MAX_REDIRECTS, Caller, Guard, Refused
from runyard.apps.canonical_json import canonical
from runyard.apps.registration import parse_registration
from runyard.apps.signatures import SigningKey, is_authorized, is_signed, signed_headers
from runyard.apps.sync import SyncFailed, sync
from runyard.dagster_adapter.apps_location import description_of
from runyard.settings import settings
from runyard.text.markdown import escaped
from runyard.text.redaction import redact
from tests.tables import empty_tables

OLD, NEW = "ab12" * 16, "cd34" * 16
KEYS = (
    SigningKey.parse(f"signkey-prod-{NEW}", "the key"),
    SigningKey.parse(f"signkey-prod-{OLD}", "the old key"),
)
Respond = Callable[[str], tuple[int, Mapping[str, str], bytes]]
IN_BAND = {"x-inngest-sync-kind": "in_band", "x-inngest-sdk": "js:v4.24.0"}


class Place(ThreadingHTTPServer):
    """A server that answers as it is told, given the path."""

    daemon_threads = True

    def __init__(self, respond: Respond | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.respond: Respond = respond or (lambda _: (200, {}, b""))
        self.asked: list[tuple[str, str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Place

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append((self.command, self.path, body))
        status, headers, content = self.server.respond(self.path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _any

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """Two servers on this machine."""
    made = [Place(), Place()]
    for place in made:
        threading.Thread(target=place.serve_forever, daemon=True).start()
    yield made
    for place in made:
        place.shutdown()
        place.server_close()


def asked(url: str, guard: Guard, body: bytes = b"{}") -> Answer:
    """The answer to a POST."""

    async def ask() -> Answer:
        async with Caller(guard, 10) as caller:
            return await caller.ask("POST", url, body, {"x-inngest-signature": "t=1&s=2"})

    return asyncio.run(ask())


DEVELOPMENT = Guard(may_be_private=True)
PRODUCTION = Guard(may_be_private=False)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.5.4", "100.64.0.1", "0.0.0.0",
        "169.254.169.254", "::1", "::", "fd00:ec2::254", "fe80::1%eth0", "fec0::1", "ff02::1",
        "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "224.0.0.1",
    ],
)  # fmt: skip
def test_in_production_no_call_goes_to_an_address_that_is_not_public(address: str) -> None:
    with pytest.raises(Refused):
        PRODUCTION.check("app.example", 443, address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_in_production_calls_go_to_public_addresses(address: str) -> None:
    PRODUCTION.check("app.example", 443, address)


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1"])
def test_not_even_in_development_does_a_call_go_to_a_link_local_address(address: str) -> None:
    with pytest.raises(Refused):
        DEVELOPMENT.check("app.example", 80, address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_the_address_is_checked_when_the_call_is_made(places: list[Place], host: str) -> None:
    place = places[0]
    answer = asked(f"http://{host}:{place.server_port}/", PRODUCTION)
    assert "list the host in RUNYARD_ALLOWED_HOSTS" in answer.problem
    assert place.asked == []


def test_a_host_that_is_listed_is_called_wherever_it_is(places: list[Place]) -> None:
    place = places[0]
    guard = Guard(may_be_private=False, allowed=(f"localhost:{place.server_port}",))
    assert asked(f"http://localhost:{place.server_port}/", guard).status == 200
    assert asked(place.url, guard).status == 0


def test_a_redirect_keeps_method_and_body(places: list[Place]) -> None:
    place = places[0]
    place.respond = lambda path: (308, {"location": "/b"}, b"") if path == "/a" else (200, {}, b"")
    assert asked(f"{place.url}/a", DEVELOPMENT, b'{"n":1}').status == 200
    assert place.asked == [("POST", "/a", b'{"n":1}'), ("POST", "/b", b'{"n":1}')]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_body_is_not_followed(
    places: list[Place], status: int
) -> None:
    places[0].respond = lambda _: (status, {"location": "/b"}, b"")
    assert asked(f"{places[0].url}/a", DEVELOPMENT).status == status
    assert len(places[0].asked) == 1


@pytest.mark.parametrize("host", ["localhost", "169.254.169.254", "other.example"])
def test_no_redirect_leads_to_another_host(places: list[Place], host: str) -> None:
    places[0].respond = lambda _: (307, {"location": f"http://{host}/b"}, b"")
    answer = asked(f"{places[0].url}/a", DEVELOPMENT)
    assert "another host or port" in answer.problem


def test_no_redirect_leads_to_another_port(places: list[Place]) -> None:
    first, second = places
    first.respond = lambda _: (307, {"location": f"{second.url}/b"}, b"")
    answer = asked(f"{first.url}/a", DEVELOPMENT)
    assert "another host or port" in answer.problem
    assert second.asked == []


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/x", "http://"])
def test_no_redirect_leads_out_of_http(places: list[Place], location: str) -> None:
    places[0].respond = lambda _: (307, {"location": location}, b"")
    assert asked(f"{places[0].url}/a", DEVELOPMENT).status == 0


def test_redirects_have_an_end(places: list[Place]) -> None:
    places[0].respond = lambda _: (307, {"location": "/again"}, b"")
    answer = asked(f"{places[0].url}/a", DEVELOPMENT)
    assert "redirected more than 10 times" in answer.problem
    assert len(places[0].asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_is_measured_after_decompression(places: list[Place], encoding: str) -> None:

    text = b" " * 60_000_000
    small = gzip.compress(text) if encoding == "gzip" else zlib.compress(text)
    places[0].respond = lambda _: (200, {"content-encoding": encoding}, small)
    assert "more than 8,388,608 bytes" in asked(f"{places[0].url}/a", DEVELOPMENT).problem


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer {KEYS[0].bearer}", f"Bearer signkey-prod-{KEYS[0].bearer}",
        f"bearer {KEYS[1].bearer}", f"Bearer signkey-prod-{NEW}", f"Bearer {OLD}",
    ],
)  # fmt: skip
def test_an_application_with_one_of_the_keys_is_believed(header: str) -> None:
    assert is_authorized(KEYS, header)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer undefined", "Bearer null", "Bearer signkey-prod-",
     f"Bearer {'0' * 64}", f"Basic {NEW}", NEW, f"Bearer {NEW[:-2]}", f"Bearer {NEW}00"],
)  # fmt: skip
def test_no_other_is(header: str) -> None:
    assert not is_authorized(KEYS, header)
    assert not is_authorized((), header)


def test_a_signature_holds_for_its_body_and_for_five_minutes() -> None:
    headers = signed_headers(KEYS[1:], b"{}", at=1_000)
    assert is_signed(KEYS, headers, b"{}", at=1_299)
    assert not is_signed(KEYS[:1], headers, b"{}", at=1_000)
    assert not is_signed(KEYS, headers, b"{ }", at=1_000)
    assert not is_signed(KEYS, headers, b"{}", at=1_301)
    assert not is_signed(KEYS, headers, b"{}", at=699)
    assert not is_signed(KEYS, {}, b"{}", at=1_000)


def test_a_key_does_not_show_itself() -> None:
    assert NEW not in repr(KEYS[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10.0, "10"), (-0.0, "0"), (1e21, "1e+21"), (1e-7, "1e-7"), (1.5, "1.5"),
        (1e20, "1" + "0" * 20),
        (0.000001, "0.000001"), ({"b": 1, "a": None}, '{"a":null,"b":1}'),
        ({"\ufb33": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ufb33":1}'),
        ("\u2028\x07\n", '"\u2028\\u0007\\n"'),
    ],
)  # fmt: skip
def test_what_is_signed_is_written_as_all_sdks_write_it(value: object, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize("form", [NEW, f"signkey-prod-{NEW}", KEYS[0].bearer])
def test_a_key_is_masked_in_every_form(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("RUNYARD_SIGNING_KEY", f"signkey-prod-{NEW}")
    assert redact(f"authorization: Bearer {form}, and more").count(form) == 0


@pytest.fixture
def signing(monkeypatch: pytest.MonkeyPatch, security_url: str) -> Iterator[None]:
    """This server has a signing key, and no applications."""
    empty_tables()
    monkeypatch.setenv("RUNYARD_SIGNING_KEY", f"signkey-prod-{NEW}")
    monkeypatch.setenv("RUNYARD_ALLOWED_HOSTS", "127.0.0.1")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()
    catalog.remove("stolen")


def registers_in_band(url: str) -> None:
    async def ask() -> None:
        async with Caller(Guard(may_be_private=True), 10) as caller:
            await sync(url, caller)

    asyncio.run(ask())


REGISTRATION = b'{"app_id":"stolen","url":"http://evil.example/x","functions":[{"id":"stolen-a"}]}'


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-inngest-signature": f"t=1&s={'0' * 64}"},
        signed_headers((SigningKey.parse("ee" * 32, "another key"),), REGISTRATION),
        signed_headers(KEYS, REGISTRATION + b" "),
        signed_headers(KEYS, REGISTRATION, at=1_000),
    ],
    ids=["unsigned", "made up", "another key", "another body", "old"],
)
def test_a_registration_in_band_is_believed_by_its_signature_alone(
    signing: None, places: list[Place], headers: Mapping[str, str]
) -> None:
    places[0].respond = lambda _: (200, {**IN_BAND, **headers}, REGISTRATION)
    with pytest.raises(SyncFailed, match="does not bear the signature"):
        registers_in_band(places[0].url)
    assert [row for row in catalog.apps() if row["name"] == "stolen"] == []


def test_one_that_is_signed_is_believed(signing: None, places: list[Place]) -> None:
    signed = signed_headers(KEYS, REGISTRATION)
    places[0].respond = lambda _: (200, {**IN_BAND, **signed}, REGISTRATION)
    registers_in_band(places[0].url)
    assert [row["name"] for row in catalog.apps()] == ["stolen"]


def test_texts_of_an_application_are_no_markdown() -> None:
    assert escaped("![x](http://evil)\n<b>|`*_") == r"\!\[x\]\(http://evil\) \<b\>\|\`\*\_"


def test_the_description_of_a_job_is_no_markdown_and_shows_no_secret(
    security_url: str,
) -> None:
    url = "http://127.0.0.1:3000/api?token=geheim"
    body = (
        f'{{"appName":"mark","url":"{url}","functions":[{{"id":"mark-a`b","name":"![x](http://e)",'
        f'"triggers":[{{"event":"a/b"}}]}}]}}'
    )
    catalog.write(parse_registration(body.encode()))
    remote = catalog.remote_function_of("mark-a`b")
    catalog.remove("mark")
    assert remote is not None
    text = description_of(remote)
    assert r"\!\[x\]\(http://e\): mark-a\`b of the application mark" in text
    assert "geheim" not in text
