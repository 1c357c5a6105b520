"""A fuzzer for the web process: random requests to every endpoint, of what has broken parsers.

``python -m tests.security.fuzz http://localhost:8290 --minutes 3`` runs it against a live process,
and prints the requests that got an unexpected server error.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click
import httpx

# Server errors that are expected: each has a code, and says what to do.
TOLD = {
    (503, code)
    for code in (
        "database_unavailable",
        "database_busy",
        "busy",
        "locked",
        "not_migrated",
        "too_many",
        "quota",
        "not ready",
    )
} | {(501, "not_supported"), (502, "provider")}
TEXTS = [
    "",
    " ",
    "x",
    "\x00",
    "\ud800",
    "\ufffe",
    "é",
    "名前",
    "\u202e",
    "a" * 300,
    "a" * 5000,
    "../../etc/passwd",
    "%",
    "%00",
    "%ff",
    "%2e%2e%2f",
    "'",
    '"',
    "\\",
    "$",
    "$x",
    "{{7*7}}",
    "<script>",
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "NaN",
    "9" * 30,
    "9" * 5000,
    "0001-01-01",
    "9999-12-31T23:59:59+14:00",
    "0001-01-01T00:00:00+14:00",
    "2026-02-30T00:00:00Z",
    "((((((((((((((1",
    "$" + ".a" * 3000,
    "@" * 2000,
    "(" * 3000,
    "\u2028",
    "x\r\nX-Evil: 1",
    "W10",
    "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgIngiXQ",
]
NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**300,
    1.5,
    1e308,
    4_102_444_800_000,
    4_102_444_800_001,
]
LITERALS = [
    b"1e999",
    b"-1e999",
    b"NaN",
    b"Infinity",
    b"9" * 5000,
    b'"\\ud800"',
    b'"\\u0000"',
    b"[" * 5000,
    b'{"a":' * 5000,
    b"\xff",
    b'"',
    b"{",
    b"\xef\xbb\xbf{}",
    b"nul",
]
HEADERS = {
    "x-inngest-event-id-seed": ["1,AAAA", "99999999999999999,AAAAAAAAAAAAAA==", "x"],
    "traceparent": ["00-" + "0" * 32, "x"],
    "Last-Event-ID": ["1:1:", "x:y:z", "9" * 40],
    "X-Request-Id": ["x" * 500, "a b"],
    "webhook-id": ["", "x" * 500],
    "webhook-timestamp": ["9" * 12, "-1", "١٢٣"],
    "webhook-signature": ["v1,", "v1,é", "v1," * 50],
    "stripe-signature": ["t=,v1=", "t=9999999999999,v1=é", "," * 500],
    "x-hub-signature-256": ["sha256=", "sha256=é"],
    "x-github-event": ["", "x" * 600, "é"],
    "x-github-delivery": ["", "x" * 600],
    "Accept": ["text/event-stream", "*/*", ""],
    "Cookie": ["runyard_dev=é", "runyard_dev=" + "x" * 3000, ";;;="],
    "Origin": ["x", "null", "https://[::1"],
    "Authorization": ["Bearer ", "Bearer é", "Basic eDp5", "Bearer " + "x" * 5000],
    "Content-Type": ["text/plain", "application/json", "é", "multipart/form-data"],
    "Content-Length": ["x", "-1"],
    "Content-Encoding": ["gzip", "é"],
    "Expect": ["100-continue"],
    "Sec-Fetch-Site": ["cross-site", "é"],
    "Host": ["evil", "localhost:99999", "[::1"],
}


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    url: str
    headers: dict[str, bytes]
    body: bytes | None


def requests(
    described: dict[str, Any], choose: random.Random, headers: dict[str, str]
) -> Iterator[Asked]:
    """Endless requests to paths of an OpenAPI document, and to others."""
    operations = [
        (method.upper(), path, found)
        for path, methods in described["paths"].items()
        for method, found in methods.items()
    ]
    others = [
        ("GET", path, {})
        for path in (
            "/dev",
            "/dev/events/{x}",
            "/dev/invocations/{x}",
            "/dev/functions/{x}",
            "/dev/send",
            "/dev/outbox/{x}",
            "/dev/static/{x}",
            "/docs",
            "/{x}",
        )
    ]
    others += [
        ("POST", path, {})
        for path in (
            "/dev/login",
            "/dev/send",
            "/dev/events/{x}/replay",
            "/dev/functions/{x}/pause",
        )
    ]
    while True:
        method, path, found = choose.choice([*operations, *others])
        given = {
            name: choose.choice(values)
            for name, values in HEADERS.items()
            if choose.random() < 0.08
        }
        yield Asked(
            choose.choice([method] * 9 + ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"]),
            _path(path, choose) + _query(found, choose),
            {
                name: value.encode()
                for name, value in {
                    **({"Content-Type": "application/json"} if method == "POST" else {}),
                    **headers,
                    **given,
                }.items()
            },
            _body(found, described, choose) if method == "POST" else None,
        )


def _path(path: str, choose: random.Random) -> str:
    parts = [
        quote(choose.choice(TEXTS), safe="%", errors="replace") if part.startswith("{") else part
        for part in path.split("/")
    ]
    return "/".join(parts)


def _query(operation: dict[str, Any], choose: random.Random) -> str:
    names = [
        parameter["name"]
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query"
    ] + ["before", "data", "since", "status", "x"]
    chosen = [
        (name, choose.choice([*TEXTS, "1", "30", "2026-01-01T00:00:00Z"]))
        for name in names
        if choose.random() < 0.3
    ]
    return (
        "?"
        + "&".join(f"{name}={quote(value, safe='%', errors='replace')}" for name, value in chosen)
        if chosen
        else ""
    )


def _body(operation: dict[str, Any], described: dict[str, Any], choose: random.Random) -> bytes:
    if choose.random() < 0.15:
        return choose.choice(LITERALS)
    schema = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
    )
    while "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    names = list(
        schema.get(
            "properties",
            {
                "name": 0,
                "data": 0,
                "id": 0,
                "ts": 0,
                "event": 0,
                "type": 0,
                "created": 0,
                "email": 0,
                "timestamp": 0,
            },
        )
    )
    made: Any = {name: _value(choose, 0) for name in names if choose.random() < 0.7}
    if choose.random() < 0.3:
        made = choose.choice([[made], [made] * 50, None, made.get("data"), "x", 1, [], {}])
    written = json.dumps(made).encode()
    return written.replace(b'"LITERAL"', choose.choice(LITERALS[:7]))


def _value(choose: random.Random, depth: int) -> Any:
    kinds = [
        lambda: choose.choice(TEXTS),
        lambda: choose.choice(NUMBERS),
        lambda: choose.choice([None, True, False, "LITERAL"]),
    ]
    if depth < 3:
        kinds += [
            lambda: [_value(choose, depth + 1) for _ in range(choose.randrange(4))],
            lambda: {choose.choice(TEXTS): _value(choose, depth + 1) for _ in range(3)},
        ]
        kinds += [
            lambda: {
                "to": "ada@example.com",
                "subject": choose.choice(TEXTS),
                "html": choose.choice(TEXTS),
            },
            lambda: "greet/requested",
        ]
    return choose.choice(kinds)()


def ask(
    address: str, seconds: float, seed: int, headers: dict[str, str]
) -> tuple[Counter[int], list[str]]:
    """Send requests for some seconds; return the count of responses by status, and failures."""
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    until = time.monotonic() + seconds
    with httpx.Client(base_url=address, timeout=20, follow_redirects=False) as client:
        described = client.get("/openapi.json").json()
        for asked in requests(described, random.Random(seed), headers):
            if time.monotonic() > until:
                break
            try:
                with client.stream(
                    asked.method, asked.url, headers=asked.headers, content=asked.body
                ) as answer:
                    stream = answer.headers.get("content-type", "").startswith("text/event-stream")
                    text = "" if stream else answer.read().decode(errors="replace")
            except (
                httpx.RemoteProtocolError,
                httpx.WriteError,
                httpx.ReadError,
                httpx.LocalProtocolError,
                httpx.InvalidURL,
                UnicodeError,
            ):
                continue  # either side may close after what is not HTTP
            except httpx.TimeoutException:
                wrong.append(f"no answer: {asked}")
                continue
            statuses[answer.status_code] += 1
            if (
                answer.status_code >= 500
                and asked.method != "HEAD"
                and (answer.status_code, _code(text)) not in TOLD
            ):
                wrong.append(f"{answer.status_code} {text[:300]}: {asked}")
    return statuses, wrong


def _code(text: str) -> str:
    """The code of an error, or for `/readyz` its status."""
    try:
        told = json.loads(text)
        return str(told.get("code", told["status"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


@click.command()
@click.argument("address")
@click.option("--minutes", default=3.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--key", help="A key, where one is asked for.")
def main(address: str, minutes: float, seed: int, key: str | None) -> None:
    """Fuzz the web process at ADDRESS."""
    statuses, wrong = ask(
        address, minutes * 60, seed, {"Authorization": f"Bearer {key}"} if key else {}
    )
    for line in wrong:
        click.echo(line)
    by_status = dict(sorted(statuses.items()))
    click.echo(f"{statuses.total()} responses, by status: {by_status}; {len(wrong)} wrong")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
