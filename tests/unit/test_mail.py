"""Templates, and mails as bytes."""

from email import message_from_bytes, policy
from pathlib import Path

import pytest

from resources.mail_templates import render_template, template_names
from resources.mailer import Mail, OutboxMailer
from resources.plain_text import plain_text
from runyard.errors import NonRetriable
from runyard.redaction import redact

DATA = {"name": "Ada", "email": "ada@example.com", "message": "Hello", "title": "News"}


@pytest.mark.parametrize("name", ["contact", "notification", "welcome"])
def test_every_template_has_both_parts(name: str) -> None:
    rendered = render_template(name, DATA)
    assert name in template_names()
    assert rendered.subject and rendered.text.strip() and rendered.html is not None and rendered.html.startswith("<!doctype html>")


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(NonRetriable, match="'name' is undefined"):
        render_template("welcome", {})


def test_html_is_escaped_and_a_subject_stays_one_line() -> None:
    rendered = render_template("contact", {**DATA, "message": "<script>alert(1)</script>", "topic": "a\r\nBcc: all@example.com"})
    assert rendered.html is not None and "<script>alert" not in rendered.html and "&lt;script&gt;" in rendered.html
    assert rendered.subject == "Message from Ada: a Bcc: all@example.com"


def test_a_template_cannot_reach_into_python() -> None:
    rendered = render_template("notification", {"title": "{{ ''.__class__ }}", "message": "x"})
    assert "{{ ''.__class__ }}" in rendered.text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<style>p{}</style><p>Hello&amp;<b>you</b></p>", "Hello&you"),
        ("<h1>Title</h1><p>one\n two</p><div>a</div><div>b<br>c</div>", "Title\n\none two\n\na\nb\nc"),
        ("<ol><li>one<li>two<ul><li>inner</ul></ol>", "1. one\n2. two\n  - inner"),
        ('<a href="https://shop.example/?a=1&amp;b=2">The shop</a>', "The shop (https://shop.example/?a=1&b=2)"),
        ('<a href="https://shop.example/">https://shop.example</a> <a href="mailto:a@b.example">a@b.example</a>', "https://shop.example a@b.example"),
        ('<a href="https://shop.example/x"><img src="x"></a>', "https://shop.example/x"),
        ("<table><tr><th>Item<th>Price<tr><td>Tea<td>3 &euro;</table>", "Item  Price\nTea  3 €"),
        ("<pre>a\n  b</pre>after", "a\n  b\n\nafter"),
        ('<div style="display: none">preview</div><title>t</title>Seen<!-- not --><script>alert(1)</script>', "Seen"),
        ('<meta charset="latin-1"><img alt="Logo"> Grüße 😀', "Logo Grüße 😀"),
        ("a < b & c", "a < b & c"),
        ("", ""),
    ],
)
def test_html_alone_gets_a_plain_part(html: str, text: str) -> None:
    assert plain_text(html) == text + "\n"


def test_the_outbox_writes_a_labelled_mail(tmp_path: Path) -> None:
    mail = Mail(
        id="m-1", to=["Ada <ada@example.com>"], cc=["c@example.com"], subject="Grüße", text="Hi\n", html="<p>Hi</p>",
        attachments=[{"filename": "a.txt", "content": "YWJj", "type": "text/plain"}],
    )  # fmt: skip
    kept = OutboxMailer(folder=str(tmp_path)).send(mail)
    assert kept["delivered"] is False
    message = message_from_bytes((tmp_path / "m-1.eml").read_bytes(), policy=policy.default)
    assert message["To"] == "Ada <ada@example.com>" and message["Subject"] == "Grüße" and "not delivered" in message["X-Runyard-Outbox"]
    parts = {part.get_content_type() for part in message.walk()}
    assert {"text/plain", "text/html"} <= parts
    assert [part.get_filename() for part in message.iter_attachments()] == ["a.txt"]


def test_secrets_are_taken_out_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cr3t-value")
    assert redact("failed with s3cr3t-value at postgresql://me:hunter2@db/x") == "failed with [redacted] at postgresql://me:[redacted]@db/x"
