"""Mails with only HTML, whatever it contains."""

from pathlib import Path

import pytest

from resources.email.outbox import read_mail
from runyard.testing import Yard


@pytest.mark.parametrize("html", ["<style " * 43_000, "<" * 300_000, "<div>" * 60_000])
def test_hostile_html_goes_out_beside_its_neighbours(yard: Yard, tmp_path: Path, html: str) -> None:
    hostile = yard.send(
        "email/send.requested", {"to": "ada@example.com", "subject": "x", "html": html}
    ).invocation
    good = yard.send(
        "email/send.requested",
        {
            "to": "bob@example.com",
            "subject": "x",
            "html": "<p>Hello <a href='https://shop.example'>Bob</a></p>",
        },
    ).invocation
    yard.work()
    assert (hostile.status, good.status) == ("succeeded", "succeeded")
    mail = read_mail(good.output["message"])
    assert mail is not None
    assert mail.text.strip() == "Hello Bob (https://shop.example)"
