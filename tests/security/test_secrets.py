"""Secrets are redacted in whatever is stored or shown; and no text controls a terminal."""

import base64
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from click.testing import CliRunner, Result

from runyard.cli.main import main
from runyard.cli.terminal import visible
from runyard.client import send
from runyard.engine import api_keys, failures
from runyard.events import Event
from runyard.functions.registry import Function
from runyard.functions.retry import Retry
from runyard.gateway.http import request_log
from runyard.store import database
from runyard.text.redaction import MASK, redact, redactor
from tests.conftest import ROOT

SECRET = "s3cr3t-Pa55"
ODD = "p@ss/w:x'y\"z\\ é+%"


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASS",
        "SMTP_PASS",
        "PASS",
        "DBPASS",
        "DB_PASS_2",
        "STRIPE_SK",
        "SK",
        "WEBHOOK_SIGNING",
        "AWS_ACCESS",
        "AWS_ACCESS_ID",
        "GPG_PASSPHRASE",
        "PRIVATE_PEM",
        "DB_PWD",
        "GITHUB_PAT",
        "BASIC_AUTH",
        "API_KEY",
        "APIKEY",
        "CLIENT_SECRET",
        "AUTH_TOKEN",
        "PGPASSWORD",
        "MYSQL_PASSWD",
        "AZURE_CREDENTIAL",
        "db_pass",
    ],
)
def test_a_variable_whose_name_says_so_is_secret(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redact(f"refused: {SECRET}!") == f"refused: {MASK}!"


def test_a_secret_that_changes_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "the-first-one")
    assert redact("the-first-one") == MASK
    monkeypatch.setenv("API_KEY", SECRET)
    assert redact(SECRET) == MASK
    assert redact("the-first-one") == "the-first-one"
    monkeypatch.delenv("API_KEY")
    assert redact(SECRET) == SECRET


@pytest.mark.parametrize(
    "name",
    [
        "PASSENGERS",
        "COMPASS",
        "PROXY_BYPASS",
        "PASS_THROUGH",
        "KEYBOARD",
        "KEYWORDS",
        "MONKEY",
        "TOKENIZER",
        "PWD",
        "OLDPWD",
        "TASK",
        "DISK",
        "RISK",
        "PATH",
        "FILE_PATTERN",
        "PRIVATE_IP",
        "PRIVATE_NETWORK",
        "PORT",
    ],
)
def test_a_variable_whose_name_only_looks_so_is_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "twelve-people")
    assert redact("for twelve-people") == "for twelve-people"


def test_what_only_counts_secrets_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_KEY_RATE_LIMIT", "100000")
    monkeypatch.setenv("MAX_TOKENS", "128000")
    assert redact("128000 of 100000") == "128000 of 100000"


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in JSON": json.dumps,
    "in JSON beyond ASCII": lambda text: json.dumps(text, ensure_ascii=False),
    "in JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "in a repr": repr,
    "in a repr of a dict": lambda text: repr({"dsn": text}),
    "in a repr of JSON": lambda text: repr(json.dumps(text)),
    "behind a quote in a repr": lambda text: repr("'" + text),
    "in a path": quote,
    "in a part of a URL": lambda text: quote(text, safe=""),
    "in a query": quote_plus,
    "encoded in small letters": lambda text: quote(text, safe="").lower(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_found_in_every_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_SECRET", ODD)
    shown = redact(f"before {FORMS[form](ODD)} behind")
    assert (
        MASK in shown,
        "z" in shown,
        shown.startswith("before "),
        shown.endswith(" behind"),
    ) == (True, False, True, True)


def test_several_secrets_in_a_variable_and_the_lines_of_a_key_are_secret_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOOK_SECRETS", "first-one, second-one")
    monkeypatch.setenv(
        "SSH_KEY", "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END PRIVATE KEY-----\n"
    )
    assert redact("second-one, then first-one; MIIEvQIBADANBgkq") == f"{MASK}, then {MASK}; {MASK}"


def test_a_secret_that_contains_another_is_redacted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "abcdef")
    monkeypatch.setenv("B_KEY", "abcdef-ghijkl")
    assert redact("abcdef-ghijkl abcdef") == f"{MASK} {MASK}"


@pytest.mark.parametrize(
    ("name", "url", "texts"),
    [
        ("DATABASE_URL", "postgresql://app:dbpassword1@db:5432/app", ["dbpassword1"]),
        (
            "RUNYARD_DIRECT_DATABASE_URL",
            "postgresql://app:dbpassword2@db:5432/app",
            ["dbpassword2"],
        ),
        ("RUNYARD_BROKER_URL", "redis://:br0ker%2Fpw@r:6379/0", ["br0ker/pw", "br0ker%2Fpw"]),
        ("ANYTHING", "amqp://u:p@ssss/wwww@host/x", ["p@ssss/wwww"]),
        ("ANYTHING", "host=h password='dsn secret' user=u", ["dsn secret"]),
        (
            "ANYTHING",
            "https://bob:basic-pw@x/",
            ["basic-pw", base64.b64encode(b"bob:basic-pw").decode()],
        ),
    ],
)
def test_the_password_of_a_connection_is_secret_alone(
    name: str, url: str, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, url)
    for text in texts:
        assert redact(f"fails with {text} now") == f"fails with {MASK} now"


def test_a_password_that_is_the_name_of_the_database_is_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://runyard:runyard@db/runyard")
    assert (
        redact("runyard is up at postgresql://runyard:runyard@db/runyard")
        == f"runyard is up at postgresql://runyard:{MASK}@db/runyard"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgres://u:p@ss/w@host/db, x", f"at postgres://u:{MASK}@host/db, x"),
        ("postgres://u:p:w#1?2@host/db?a=b@c", f"postgres://u:{MASK}@host/db?a=b@c"),
        ("redis://:pw@h and redis://:pw@h", f"redis://:{MASK}@h and redis://:{MASK}@h"),
        ('{"a":"https://u:p@h","b":"x@y"}', f'{{"a":"https://u:{MASK}@h","b":"x@y"}}'),
        ("host=a password=secret1 user=b", f"host=a password={MASK} user=b"),
        ("host=a password='it is' user=b", f"host=a password='{MASK}' user=b"),
        ('passwd="it is" x', f'passwd="{MASK}" x'),
        ('{"dsn": "password=\\"it is\\" x"}', f'{{"dsn": "password=\\"{MASK}\\" x"}}'),
        ("Uid=u;Pwd=abc;Database=d", f"Uid=u;Pwd={MASK};Database=d"),
        ("/login?password=abc&next=1", f"/login?password={MASK}&next=1"),
        ("connect(password=abc, host=h)", f"connect(password={MASK}, host=h)"),
        ("password=a,b;c host=h", f"password={MASK} host=h"),
        ("password='cut off in the mid", f"password='{MASK}"),
        ("PGPASSWORD=abc psql", f"PGPASSWORD={MASK} psql"),
    ],
)
def test_a_password_in_a_text_is_taken_out_and_the_rest_stays(text: str, shown: str) -> None:
    assert (redact(text), redact(shown)) == (shown, shown)


@pytest.mark.parametrize(
    "text",
    [
        "postgres://user@host/db",
        "https://host:8080/path@v1",
        "https://h:8080?to=a@b",
        "https://h/x?to=a@b c:d@e",
        "u://a:@h/x@y",
        "http://[::1]:80/x@y",
        "connect(password=None, x)",
        "password = get()",
        "password='' x",
        "passwords=3",
        "PWD=/home/ada",
        '{"said": "password=", "to": "ada"}',
        "'password=' is missing, 'user=' too",
        "a password: eight characters",
    ],
)
def test_a_text_without_a_password_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_the_time_that_it_takes_grows_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_SECRET", ODD)
    monkeypatch.setenv("API_KEY", "aaaaaaaaaaaaaaab")
    without = redactor()

    def taken(text: str) -> float:
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            without(text)
            best = min(best, time.perf_counter() - began)
        return best

    for piece in (
        "a",
        "://",
        "://u:",
        "://u:p@",
        "://u:p?a=",
        "password=",
        "password='",
        'password=\\"',
        "=",
        "p@ss/w:x'y",
        "pwd=)",
        "password=)",
        "\\",
        "%40",
        "p%40ss",
    ):
        small, large = (piece * (size // len(piece)) for size in (20_000, 200_000))
        assert taken(large) < 40 * max(taken(small), 0.0001), piece


def test_a_text_of_a_megabyte_is_redacted_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        monkeypatch.setenv(f"KEY_{number}", f"sk-{number}-abcdefghijklmnop")
    text = (
        '  File "/srv/app/email.py", line 42, in send\n'
        "    response = client.post(url, json=payload)\n"
        "ConnectError: https://api.example.com/v3\n" * 10_000
    )[: 2**20]
    began = time.perf_counter()
    assert redactor()(text) == text
    assert time.perf_counter() - began < 5


# Output


def test_a_stored_error_contains_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", ODD)
    try:
        raise ConnectionError({"dsn": ODD})
    except ConnectionError as error:
        kept = failures.Failure.of("step", "op", error, 1, Retry(attempts=1)).to_json()
    assert (MASK in kept, "z" in json.loads(kept)["message"]) == (True, False)


def test_the_log_of_the_web_process_contains_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASS", SECRET)
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:]
    root.handlers.clear()
    try:
        request_log.log_to_stderr()
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(stream)
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("asyncio").exception("task failed")
    finally:
        root.handlers[:] = before
    assert ("ValueError: [redacted]" in stream.getvalue(), SECRET in stream.getvalue()) == (
        True,
        False,
    )


# Terminals

EVIL = (
    "\x1b[31m\x1b]0;title\x07 a\nforged line\rb\x08 \x7f \x9b31m"
    " \u202eabc\u2066 \u2028\u2029\x85\tend"
)
_OBEYED = [
    chr(number)
    for number in (*range(32), *range(0x7F, 0xA0), *range(0x2028, 0x202F), *range(0x2066, 0x206A))
]


def _run(*arguments: str) -> Result:
    found = CliRunner().invoke(main, list(arguments))
    assert not isinstance(found.exception, Exception), found.exception
    return found


def _obeyed(text: str, *but: str) -> list[str]:
    return [repr(character) for character in _OBEYED if character in text and character not in but]


@pytest.fixture
def evil_rows(functions: dict[str, Function]) -> None:
    """An event, a failure, a bulk action and a key with control characters in every text."""
    with database.connection() as connection:
        send(Event("greet/requested", {"said": EVIL}))
        connection.execute("UPDATE runyard.events SET name = %s", (f"greet/{EVIL}",))
        error = json.dumps(
            {
                "step": EVIL,
                "type": f"Type{EVIL}",
                "message": f"message {EVIL}",
                "traceback": f"Traceback:\n  File x\n\tindented {EVIL}",
            }
        )
        connection.execute(
            "UPDATE runyard.invocations SET status = 'failed', finished_at = now(), error = %s",
            (error,),
        )
        connection.execute(
            "INSERT INTO runyard.bulks (id, action, selection, upto, total)"
            " VALUES ('b', 'replay', %s, 1, 1)",
            (json.dumps({"error": EVIL, "function": None}),),
        )
        connection.execute(
            "UPDATE runyard.functions SET triggers = ARRAY[%s], name = %s WHERE name = 'greet'",
            (EVIL, f"greet{EVIL}"),
        )
    api_keys.create(f"name {EVIL}", ["send"], events=[f"shop/{EVIL}"])


@pytest.mark.parametrize(
    "command", [("events",), ("dead-letters",), ("functions",), ("bulks",), ("keys", "list")]
)
def test_a_line_that_is_printed_is_one_line_and_nothing_in_it_is_obeyed(
    evil_rows: None, command: tuple[str, ...]
) -> None:
    printed = _run(*command).output
    assert _obeyed(printed, "\n") == []
    assert (
        "\\x1b[31m" in printed or "\\u001b[31m" in printed,
        [line for line in printed.splitlines() if line.startswith("forged")],
    ) == (True, [])


def test_one_dead_letter_keeps_the_lines_of_its_traceback_alone(evil_rows: None) -> None:
    with database.connection() as connection:
        row = connection.execute("SELECT min(id) AS id FROM runyard.invocations").fetchone()
    assert row is not None
    printed = _run("dead-letters", "--id", str(row["id"])).output
    assert _obeyed(printed, "\n", "\t") == []
    assert "Traceback:\n  File x\n\tindented \\x1b[31m" in printed


def test_json_stays_json_and_is_ascii_alone(
    evil_rows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASS", "forged line")
    [line] = _run("events", "--json").output.splitlines()
    row = json.loads(line)
    assert (line.isascii(), _obeyed(line)) == (True, [])
    assert row["data"]["said"] == EVIL.replace("forged line", MASK)


def test_json_stays_json_with_half_a_password_in_it(functions: dict[str, Function]) -> None:
    send(Event("greet/requested", {"a": "x password='", "b": "it's", "c": 'password="'}))
    [line] = _run("events", "--json").output.splitlines()
    assert json.loads(line)["data"] == {"a": "x password='", "b": "it's", "c": 'password="'}


def test_an_error_is_one_line_and_nothing_in_it_is_obeyed(
    security_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASS", SECRET)
    found = CliRunner().invoke(main, ["events", "--id", EVIL + SECRET])
    assert (
        found.exit_code,
        _obeyed(found.output, "\n"),
        found.output.count("\n"),
        SECRET in found.output,
    ) == (1, [], 1, False)


def test_a_secret_that_is_cut_in_the_middle_is_found_before(
    functions: dict[str, Function], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASS", "a-very-long-secret-of-the-tests")
    send(Event("greet/requested", {}))
    with database.connection() as connection:
        error = json.dumps(
            {
                "step": "s",
                "type": "T",
                "message": "x" * 110 + "a-very-long-secret-of-the-tests",
                "traceback": "",
            }
        )
        connection.execute(
            "UPDATE runyard.invocations SET status = 'failed', finished_at = now(), error = %s",
            (error,),
        )
    assert "a-very-lon" not in _run("events").output + _run("dead-letters").output


def test_the_time_that_the_commands_take_for_nesting_beyond_reading_is_none(
    security_url: str,
) -> None:
    found = _run("send", "greet/requested", "--data", "[" * 100_000)
    assert (found.exit_code, "is nested too deeply" in found.output) == (2, True)


def test_what_is_harmless_is_shown_as_it_is() -> None:
    assert (
        visible("Zoë 日本 \U0001f600 C:\\new\\table e\u0301")
        == "Zoë 日本 \U0001f600 C:\\new\\table e\u0301"
    )


def test_the_report_shows_a_name_in_one_line(
    tmp_path: Path, functions: dict[str, Function], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runyard.settings import settings

    monkeypatch.setenv("RUNYARD_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    send(Event("shop/paid", {}))
    with database.connection() as connection:
        connection.execute("UPDATE runyard.events SET name = %s", (EVIL,))
    printed = _run("report").output
    settings.cache_clear()
    assert (
        _obeyed(printed, "\n"),
        [line for line in printed.splitlines() if line.startswith("forged")],
        "\\x1b[31m" in printed,
    ) == ([], [], True)


def _listened(*pieces: str) -> list[str]:
    """The lines that the log of the stack has when its web process writes these pieces."""
    listened = ""
    for piece in pieces:
        payload = f"processname:web groupname:stack pid:1 channel:stdout\n{piece}"
        listened += (
            "ver:3.0 server:supervisor serial:1 pool:output poolserial:1"
            f" eventname:PROCESS_LOG_STDOUT len:{len(payload)}\n{payload}"
        )
    command = [sys.executable, "-m", "runyard", "prefix-output"]
    printed = subprocess.run(
        command,
        input=listened,
        env={**os.environ, "DB_PASS": SECRET},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stderr
    return [line.removeprefix("web      | ") for line in printed.splitlines()]


def test_the_log_of_the_stack_holds_no_secret() -> None:
    assert _listened(f"connecting with {SECRET}\n")[0] == f"connecting with {MASK}"


def test_the_log_of_the_stack_waits_for_no_line_without_an_end() -> None:
    assert len(_listened("x" * 70_000)[0]) > 60_000


def test_the_log_of_the_stack_cuts_no_secret_in_a_line_without_an_end() -> None:
    lines = _listened("x" * (70_000 - 4) + SECRET[:4], SECRET[4:] + "y\n")
    assert "".join(lines[:2]) == "x" * (70_000 - 4) + MASK + "y"
