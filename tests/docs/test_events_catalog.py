"""docs/events-catalog.md lists every event type and is up to date."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "events-catalog.md").read_text(encoding="utf-8")


def printed(*options: str) -> str:
    """What `runyard catalog` prints in the project's folder."""
    command = [sys.executable, "-m", "runyard", "catalog", *options]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def page() -> str:
    return printed()


def test_the_page_is_up_to_date(page: str) -> None:
    assert page == PAGE, (
        "the event types have changed: run `runyard catalog > docs/events-catalog.md`"
    )


def test_every_field_has_a_meaning(page: str) -> None:
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []


def test_every_event_of_the_project_says_who_sends_it(page: str) -> None:
    assert page.count("\n- Sent by: ") == page.count("\n## ")


def test_what_an_event_starts_is_named(page: str) -> None:
    section = page.split("## email/send.requested")[1].split("\n## ")[0]
    assert "- Starts: `send_email`\n" in section


def test_the_asyncapi_document_has_a_message_for_every_event_of_the_page(page: str) -> None:
    messages = json.loads(printed("--asyncapi"))["components"]["messages"].values()
    assert [f"## {message['name']}" for message in messages] == [
        line for line in page.splitlines() if line.startswith("## ")
    ]
