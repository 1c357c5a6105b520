"""`make screenshots`: takes the pictures of the dev page in docs/screenshots.

It starts a stack with separate data and sends real events.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from demo import sample_media

ROOT = Path(__file__).resolve().parent.parent
INTO = ROOT / "docs" / "screenshots"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_SECONDS = 60.0


def main() -> int:
    """Take all screenshots; return the exit code."""
    folder = Path("/tmp/runyard")  # shown in the pictures
    if folder.exists():
        print(f"{folder} is there already: move it away", file=sys.stderr)
        return 1
    folder.mkdir()
    for name in [
        name
        for name in os.environ
        if name.startswith(
            ("RUNYARD_", "SENDGRID_", "GEMINI_", "OPENAI_", "MEDIA_", "MAIL_", "DATABASE_URL")
        )
    ]:
        del os.environ[name]
    os.environ.update(
        DAGSTER_HOME=str(ROOT),
        RUNYARD_HOME=str(ROOT),
        RUNYARD_DATA_DIR=str(folder),
        RUNYARD_PORT="8297",
    )
    from runyard.processes.stack import Stack
    from runyard.settings import settings
    from runyard.store.embedded import delete_embedded

    try:
        with Stack(quiet=True), sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=FLAGS
            )
            _take(browser, _send_events(folder))
            browser.close()
    finally:
        delete_embedded(settings().postgres_dir)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _send_events(data: Path) -> Mapping[str, str]:
    """Send events of several families; return each page's path when all are done.

    One of the events fails.
    """
    from runyard import Event, send
    from runyard.gateway.api.wait import invocations_of

    (data / "uploads").mkdir(parents=True)
    (data / "uploads" / "photo.jpg").write_bytes(sample_media.jpeg(sample_media.photo(2000, 1500)))
    sent = send(
        [
            Event("order/placed", {"order": 7, "total": 120}),
            Event("media/image.uploaded", {"source": "not-there.jpg"}),
            Event("user/created", {"user": "ada", "email": "ada@example.com", "name": "Ada"}),
            Event(
                "content/generate.requested",
                {"topic": "Durable queues on PostgreSQL", "length": 600, "user": "ada"},
            ),
            Event("media/image.uploaded", {"source": "photo.jpg"}),
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
                "email/send.requested",
                {"to": ["ada@example.com"], "template": "welcome", "data": {"name": "Ada"}},
            ),
        ]
    )
    deadline = time.monotonic() + _SECONDS
    while len(found := invocations_of(sent)) < len(sent) - 1 or any(
        one.status not in ("succeeded", "failed", "sleeping") for one in found
    ):
        assert time.monotonic() < deadline, f"not done: {found}"
        time.sleep(0.2)
    _, failed, created, written, pictured, _, mailed = sent
    number = {one.event_id: one.id for one in found}
    _, failed, created, written, pictured, _, mailed = sent
    return {
        "events": "/dev",
        "event": f"/dev/events/{created}",
        "invocation": f"/dev/invocations/{number[written]}",
        "failure": f"/dev/invocations/{number[failed]}",
        "send": "/dev/send?name=email/send.requested",
        "functions": "/dev/functions",
        "outbox": f"/dev/outbox/{mailed}-{number[mailed]}",
        "media": f"/dev/media/{pictured}-{number[pictured]}",
        "health": "/dev/health",
    }


def _take(browser: Browser, pages: Mapping[str, str]) -> None:
    """Every page in a wide window; the events in a narrow one and in dark mode, too."""
    shutil.rmtree(INTO, ignore_errors=True)
    INTO.mkdir(parents=True)
    shots = [(name, path, 1280, "light") for name, path in pages.items()]
    shots += [
        ("events-narrow", pages["events"], 390, "light"),
        ("invocation-dark", pages["invocation"], 1280, "dark"),
    ]
    for name, path, width, scheme in shots:
        page = browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page.goto(f"http://localhost:8297{path}")
        page.wait_for_timeout(1500)
        # Tracebacks contain paths of this machine.
        page.evaluate(
            "for (const traceback of document.querySelectorAll('pre[aria-label=Traceback]'))"
            " traceback.remove()"
        )
        page.screenshot(path=INTO / f"{name}.png")
        page.close()
        print(f"docs/screenshots/{name}.png")


if __name__ == "__main__":
    sys.exit(main())
