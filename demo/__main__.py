"""`make demo`: start the stack, send events through every entry point, print the outcomes, stop.

The runs stay in the project's database: `make up` shows them in the Dagster UI afterwards.
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
from resources.email.mailer import mailer_from_settings, outbox_folder
from resources.email.tables import EmailMessages
from resources.media.store import MediaStore, uploads_folder
from resources.notifications.tables import Notifications, Preferences
from runyard import Event, InvalidEvent, RunyardError, send
from runyard.processes.stack import Stack
from runyard.settings import settings
from runyard.store import database
from runyard.store.data_folder import make_folder
from runyard.store.queries import Row, fetch_all, fetch_one

BURST = 200
_SECONDS = 120.0
# The welcome of a new user sleeps for an hour: that is as far as it gets here.
_OVER = ("succeeded", "failed", "cancelled", "sleeping")
_NAME = "email/send.requested"


def main() -> int:
    """Run the demo; return its exit code."""
    print("Preparing a photo, a video and a local API to load.")
    print("Starting the stack: database, code server, daemon, worker, web ...", flush=True)
    try:
        with _LocalApi() as api, TemporaryDirectory(prefix="runyard-demo-") as folder:
            _declare_source(api.url, Path(folder))
            with Stack(quiet=True):
                return _demo()
    except RunyardError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _demo() -> int:
    provider = mailer_from_settings().provider
    note = " (files; nothing is delivered without SENDGRID_API_KEY)" if provider == "outbox" else ""
    print(f"Mail goes to: {provider}{note}")
    EmailMessages().suppress("bounced@example.com", "demo: a mail to it bounced")
    Notifications().save(Preferences(user_id="ada", email="ada@example.com"))
    began = time.monotonic()
    shown = [*_send_through_every_entry_point(), *_send_one_of_each()]
    burst = send(
        [
            Event(_NAME, _welcome(f"reader{number}@example.com", f"Reader {number}"))
            for number in range(BURST)
        ]
    )
    _send_an_invalid_event()
    rows = _wait(shown + burst)
    seconds = time.monotonic() - began
    _print_table([row for row in rows if row["id"] in shown])
    code = _print_summary(rows, burst, seconds)
    print("\n`runyard report`, the week in numbers:\n")
    print(_runyard("report"))
    return code


def _runyard(*arguments: str) -> str:
    """The output of a command of Runyard."""
    command = [sys.executable, "-m", "runyard", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=settings().home
    ).stdout


def _send_one_of_each() -> list[str]:
    """Send an event of every family, with real input."""
    uploads = uploads_folder()
    make_folder(uploads)
    (uploads / "demo.jpg").write_bytes(sample_media.jpeg(sample_media.photo(4000, 3000)))
    sample_media.video(uploads / "demo.mp4", seconds=5, codec="mpeg4")
    content = {
        "topic": "Durable queues on PostgreSQL",
        "length": 600,
        "user": "ada",
        "notify": True,
    }
    notification = {
        "user": "ada",
        "kind": "report",
        "title": "Your report is ready",
        "message": "It has 12 pages.",
    }
    new_user = {"user": f"demo-{time.time_ns()}", "email": "new@example.com", "name": "Alan"}
    return send(
        [
            Event("content/generate.requested", content),
            Event("media/image.uploaded", {"source": "demo.jpg"}),
            Event("media/video.uploaded", {"source": "demo.mp4"}),
            Event("sync/requested", {"source": "demo"}),
            Event("notification/requested", notification),
            Event("user/created", new_user),
        ]
    )


class _LocalApi(FakeServer):
    """An API with some people, as another system would have."""

    def respond(self, request: Handler, body: bytes, failure: Any) -> None:
        del body, failure
        request.answer(200, [{"id": number, "name": f"Person {number}"} for number in range(250)])


_SOURCE = """
[[source]]
name = "demo"
kind = "rest"
url = "{url}"
[[source.table]]
name = "people"
path = "people"
key = ["id"]
"""


def _declare_source(url: str, folder: Path) -> None:
    file = folder / "sync.toml"
    file.write_text(_SOURCE.format(url=url), encoding="utf-8")
    os.environ["SYNC_SOURCES"] = str(file)


def _send_through_every_entry_point() -> list[str]:
    return [
        *send(_NAME, _welcome("Ada Lovelace <ada@example.com>", "Ada")),
        _send_with_sql(),
        *_send_over_http(),
        *_call_edge_functions(),
        *_send_from_the_shell(),
    ]


def _send_with_sql() -> str:
    mail = {
        "to": "team@example.com",
        "template": "contact",
        "data": {
            "name": "Grace",
            "email": "grace@example.com",
            "message": "Do you ship to Arlington?",
        },
    }
    statement = "SELECT runyard.send(%s, %s::jsonb) AS id"
    with database.transaction() as connection:
        row = connection.execute(statement, (_NAME, json.dumps(mail))).fetchone()
    assert row is not None
    return str(row["id"])


def _send_over_http() -> list[str]:
    from_template = {
        "to": ["alan@example.com"],
        "template": "notification",
        "data": {"title": "Your report is ready", "message": "It has 12 pages."},
    }
    suppressed = {
        "to": ["bounced@example.com"],
        "subject": "Hello again",
        "text": "This address is suppressed.",
    }
    events = [
        {"name": _NAME, "data": from_template},
        {"name": _NAME, "data": suppressed},
        {"name": "order/placed", "data": {"order": 1}},
    ]
    return _post("/e/demo", events)


def _call_edge_functions() -> list[str]:
    contact_form = {
        "name": "Katherine",
        "email": "katherine@example.com",
        "message": "The orbit is right.",
    }
    prompt = {"prompt": "A haiku about queues", "background": True}
    return [
        *_post("/functions/v1/contact-notification", contact_form),
        *_post("/functions/v1/gemini", prompt),
    ]


def _send_from_the_shell() -> list[str]:
    mail = {"to": "linus@example.com", "subject": "From the shell", "text": "One line."}
    return _runyard("send", _NAME, "--data", json.dumps(mail)).split()


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


def _send_an_invalid_event() -> None:
    try:
        send(_NAME, {"to": ["ada@example.com"], "template": "welcome", "dta": {"name": "Ada"}})
    except InvalidEvent as error:
        print(f"A misspelt field is rejected: {error}")


def _wait(ids: Sequence[str]) -> list[Row]:
    """Wait until all invocations of these events have ended, with progress; return the events."""
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
            all(invocation["status"] in _OVER for invocation in row["invocations"]) for row in rows
        )
        if sys.stdout.isatty():
            print(f"\r{done} of {len(ids)} events are done", end="", flush=True)
        if done == len(ids) or time.monotonic() > deadline:
            print(f"\r{done} of {len(ids)} events are done")
            return rows
        time.sleep(0.25)


_UNMATCHED = {"function": "", "status": "unmatched", "seconds": None, "output": None}


def _print_table(rows: Sequence[Row]) -> None:
    lines: list[tuple[str, ...]] = [("from", "event", "function", "outcome", "seconds", "result")]
    for row in rows:
        for invocation in row["invocations"] or [_UNMATCHED]:
            duration = invocation["seconds"]
            seconds = "" if duration is None else f"{duration:.2f}"
            event = (row["source"], row["name"])
            outcome = (invocation["function"], invocation["status"], seconds)
            lines.append((*event, *outcome, _result(invocation["output"])[:76]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _result(output: Any) -> str:
    """A function's result in a few words."""
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
            return f"notified by {', '.join(channels) or 'nothing'}"
        case {"status": status, **more}:
            return f"{status} {more.get('file', more.get('message_id', ''))}".strip()
        case [event_id, *others]:
            return f"sent event {event_id}" + (f" and {len(others)} more" if others else "")
        case _:
            return ""


def _print_summary(rows: Sequence[Row], burst: Sequence[str], seconds: float) -> int:
    sent = sum(_ended_as(row, "succeeded") for row in rows if row["id"] in burst)
    with database.connection() as connection:
        runs = len(fetch_all(connection, "runs_of_events", events=list(burst)))
    print(f"\nA burst of {len(burst)} mails: {sent} sent in {runs} Dagster runs.")
    print(f"Everything took {seconds:.1f} s.")
    if mailer_from_settings().provider == "outbox":
        print(f"The mails are files in {outbox_folder()}, the images in {MediaStore().root}")
    address = f"http://localhost:{settings().port}"
    print(f"`make up` shows the runs at {address}/runs, the events at {address}/dev,")
    print(f"and the HTTP API at {address}/docs")
    failed = [row["id"] for row in rows if not _ended_as(row, "succeeded", "sleeping")]
    if failed or sent < len(burst):
        print(f"demo: not all events succeeded: {', '.join(failed[:5])}", file=sys.stderr)
        return 1
    return 0


def _ended_as(row: Row, *statuses: str) -> bool:
    return all(invocation["status"] in statuses for invocation in row["invocations"])


if __name__ == "__main__":
    sys.exit(main())
