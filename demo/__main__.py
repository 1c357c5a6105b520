"""`make demo`: starts the stack, sends real events through every door, shows what became of them, stops everything.

The runs stay in the database of the project: `make up` shows them in the Dagster UI afterwards.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo import sample_media
from demo.fake_server import FakeServer, Handler
from resources.email.mailer import mailer_from_environment, outbox_folder
from resources.email.messages import EmailMessages
from resources.media.store import MediaStore, uploads_folder
from resources.notifications.preferences import Notifications, Preferences
from runyard import Event, InvalidEvent, RunyardError, send
from runyard.processes.stack import Stack
from runyard.settings import settings
from runyard.store import database
from runyard.store.data_folder import make_folder
from runyard.store.queries import Row, fetch_all, fetch_one

BURST = 200
_SECONDS = 120.0
# What sleeps for an hour (the welcome of a new user) is as far as it comes here.
_OVER = ("succeeded", "failed", "cancelled", "sleeping")
_NAME = "email/send.requested"


def main() -> int:
    """Run the demo; return its exit code."""
    print(
        "Making a photo, a video and an API for it; starting the stack: database, code server, daemon, worker, web ...",
        flush=True,
    )
    try:
        with _LocalApi() as api, TemporaryDirectory(prefix="runyard-demo-") as folder:
            _declare_source(api.url, Path(folder))
            with Stack(quiet=True):
                return _demo()
    except RunyardError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _demo() -> int:
    mailer = mailer_from_environment()
    print(
        f"Mails go to: {mailer.provider}"
        + (
            " (files, nothing is delivered; SENDGRID_API_KEY sends for real)"
            if mailer.provider == "outbox"
            else ""
        )
    )
    EmailMessages().suppress("bounced@example.com", "demo: a mail to it bounced")
    Notifications().prefer(Preferences(user_id="ada", email="ada@example.com"))
    began = time.monotonic()
    shown = [*_send_through_every_door(), *_send_one_of_each()]
    burst = send(
        [
            Event(_NAME, _welcome(f"reader{number}@example.com", f"Reader {number}"))
            for number in range(BURST)
        ]
    )
    _refuse_a_bad_one()
    rows = _wait(shown + burst)
    seconds = time.monotonic() - began
    _print_table([row for row in rows if row["id"] in shown])
    code = _print_summary(rows, burst, seconds)
    print("\n`runyard report`, the week in numbers:\n")
    print(
        subprocess.run(
            [sys.executable, "-m", "runyard", "report"],
            capture_output=True,
            text=True,
            check=True,
            cwd=settings().home,
        ).stdout
    )
    return code


def _send_one_of_each() -> list[str]:
    """An event of every family, on real input."""
    uploads = uploads_folder()
    make_folder(uploads)
    (uploads / "demo.jpg").write_bytes(sample_media.jpeg(sample_media.photo(4000, 3000)))
    sample_media.video(uploads / "demo.mp4", seconds=5, codec="mpeg4")
    return send(
        [
            Event(
                "content/generate.requested",
                {
                    "topic": "Durable queues on PostgreSQL",
                    "length": 600,
                    "user": "ada",
                    "notify": True,
                },
            ),
            Event("media/image.uploaded", {"source": "demo.jpg"}),
            Event("media/video.uploaded", {"source": "demo.mp4"}),
            Event("sync/requested", {"source": "demo"}),
            Event(
                "notification/requested",
                {
                    "user": "ada",
                    "kind": "report",
                    "title": "Your report is ready",
                    "message": "It has 12 pages.",
                },
            ),
            Event(
                "user/created",
                {"user": f"demo-{time.time_ns()}", "email": "new@example.com", "name": "Alan"},
            ),
        ]
    )


class _LocalApi(FakeServer):
    """An API with some people in it, as another system would have."""

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        del body, failure
        request.answer(200, [{"id": number, "name": f"Person {number}"} for number in range(250)])


def _declare_source(address: str, folder: Path) -> None:
    file = folder / "sync.toml"
    file.write_text(
        f'[[source]]\nname = "demo"\nkind = "rest"\nurl = "{address}"\n[[source.table]]\nname = "people"\npath = "people"\nkey = ["id"]\n',
        encoding="utf-8",
    )
    os.environ["SYNC_SOURCES"] = str(file)


def _send_through_every_door() -> list[str]:
    python = send(_NAME, _welcome("Ada Lovelace <ada@example.com>", "Ada"))
    with database.transaction() as connection:
        contact = {
            "to": "team@example.com",
            "template": "contact",
            "data": {
                "name": "Grace",
                "email": "grace@example.com",
                "message": "Do you ship to Arlington?",
            },
        }
        row = connection.execute(
            "SELECT runyard.send(%s, %s::jsonb) AS id", (_NAME, json.dumps(contact))
        ).fetchone()
        assert row is not None
    http = _post(
        "/e/demo",
        [
            {
                "name": _NAME,
                "data": {
                    "to": ["alan@example.com"],
                    "template": "notification",
                    "data": {"title": "Your report is ready", "message": "It has 12 pages."},
                },
            },
            {
                "name": _NAME,
                "data": {
                    "to": ["bounced@example.com"],
                    "subject": "Hello again",
                    "text": "This address is suppressed.",
                },
            },
            {"name": "order/placed", "data": {"order": 1}},
        ],
    )
    contact_form = {
        "name": "Katherine",
        "email": "katherine@example.com",
        "message": "The orbit is right.",
    }
    edge = [
        *_post("/functions/v1/contact-notification", contact_form),
        *_post("/functions/v1/gemini", {"prompt": "A haiku about queues", "background": True}),
    ]
    shell = subprocess.run(
        [
            sys.executable,
            "-m",
            "runyard",
            "send",
            _NAME,
            "--data",
            json.dumps(
                {"to": "linus@example.com", "subject": "From the shell", "text": "One line."}
            ),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=settings().home,
    )
    return [*python, str(row["id"]), *http, *edge, *shell.stdout.split()]


def _welcome(address: str, name: str) -> dict[str, Any]:
    return {
        "to": [address],
        "template": "welcome",
        "data": {"name": name, "product": "Acme", "action_url": "https://example.com/start"},
    }


def _post(path: str, body: object) -> list[str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{settings().port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return list(json.load(answer)["ids"])


def _refuse_a_bad_one() -> None:
    try:
        send(_NAME, {"to": ["ada@example.com"], "template": "welcome", "dta": {"name": "Ada"}})
    except InvalidEvent as error:
        print(f"A misspelt field is refused at the door: {error}")


def _wait(ids: Sequence[str]) -> list[Row]:
    """Wait until no invocation of these events is open, with progress; return the events."""
    deadline = time.monotonic() + _SECONDS
    while True:
        with database.connection() as connection:
            rows = [
                row
                for event_id in ids
                if (row := fetch_one(connection, "recent_events", id=event_id, name=None, limit=1))
                is not None
            ]
        done = sum(
            1 for row in rows if all(found["status"] in _OVER for found in row["invocations"])
        )
        if sys.stdout.isatty():
            print(f"\r{done} of {len(ids)} events are done", end="", flush=True)
        if done == len(ids) or time.monotonic() > deadline:
            print(f"\r{done} of {len(ids)} events are done")
            return rows
        time.sleep(0.25)


def _print_table(rows: Sequence[Row]) -> None:
    lines = [("from", "event", "function", "outcome", "seconds", "result")]
    for row in rows:
        for found in row["invocations"] or [
            {"function": "", "status": "unmatched", "seconds": None, "output": None}
        ]:
            seconds = "" if found["seconds"] is None else f"{found['seconds']:.2f}"
            lines.append(
                (
                    row["source"],
                    row["name"],
                    found["function"],
                    found["status"],
                    seconds,
                    _result(found["output"])[:76],
                )
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for number, line in enumerate(lines):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _result(output: Any) -> str:
    """Where the result of a function is, in a few words."""
    match output:
        case {"text": text, "provider": provider}:
            return f"{provider}: {text}"
        case {"content": content, "status": status}:
            return f"app.content {content} ({status})"
        case {"media": media, "variants": variants}:
            return f"app.media {media}, {len(variants)} files"
        case {"source": source, "rows": rows}:
            return ", ".join(
                f"sync_{source}.{table}: {count} rows" for table, count in rows.items()
            )
        case {"channels": channels}:
            return f"told by {', '.join(channels) or 'nothing'}"
        case {"status": status, **more}:
            return f"{status} {more.get('file', more.get('message_id', ''))}".strip()
        case [event_id, *others]:
            return f"sent event {event_id}" + (f" and {len(others)} more" if others else "")
        case _:
            return ""


def _print_summary(rows: Sequence[Row], burst: Sequence[str], seconds: float) -> int:
    sent = sum(
        1
        for row in rows
        if row["id"] in burst
        and all(found["status"] == "succeeded" for found in row["invocations"])
    )
    with database.connection() as connection:
        runs = len(fetch_all(connection, "runs_of_events", events=list(burst)))
    print(
        f"\nA burst of {len(burst)} mails: {sent} sent in {runs} Dagster runs. Everything took {seconds:.1f} s."
    )
    if mailer_from_environment().provider == "outbox":
        print(f"The mails are files in {outbox_folder()}, the pictures in {MediaStore().root}")
    address = f"http://localhost:{settings().port}"
    print(
        f"`make up` shows the runs at {address}/runs, the events at {address}/dev, and the HTTP API at {address}/docs"
    )
    failed = [
        row["id"]
        for row in rows
        if any(found["status"] not in ("succeeded", "sleeping") for found in row["invocations"])
    ]
    if failed or sent < len(burst):
        print(f"demo: not all events succeeded: {', '.join(failed[:5])}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
