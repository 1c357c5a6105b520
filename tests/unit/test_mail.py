"""Mail templates, and mails as files."""

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from resources.email.mailer import Mail, OutboxMailer
from resources.email.plain_text import plain_text
from resources.email.templates import render_template, template_names
from runyard.errors import NonRetriable
from runyard.text.redaction import redact

DATA = {"name": "Ada", "email": "ada@example.com", "message": "Hello", "title": "News"}


@pytest.mark.parametrize("name", ["contact", "notification", "welcome"])
def test_every_template_has_both_parts(name: str) -> None:
    rendered = render_template(name, DATA)
    assert name in template_names()
    assert rendered.subject
    assert rendered.text.strip()
    assert rendered.html is not None
    assert rendered.html.startswith("<!doctype html>")


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(NonRetriable, match="'name' is undefined"):
        render_template("welcome", {})


def test_html_is_escaped_and_a_subject_stays_one_line() -> None:
    rendered = render_template(
        "contact",
        {**DATA, "message": "<script>alert(1)</script>", "topic": "a\r\nBcc: all@example.com"},
    )
    assert rendered.html is not None
    assert "<script>alert" not in rendered.html
    assert "&lt;script&gt;" in rendered.html
    assert rendered.subject == "Message from Ada: a Bcc: all@example.com"


def test_a_template_cannot_reach_into_python() -> None:
    rendered = render_template("notification", {"title": "{{ ''.__class__ }}", "message": "x"})
    assert "{{ ''.__class__ }}" in rendered.text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<style>p{}</style><p>Hello&amp;<b>you</b></p>", "Hello&you"),
        (
            "<h1>Title</h1><p>one\n two</p><div>a</div><div>b<br>c</div>",
            "Title\n\none two\n\na\nb\nc",
        ),
        ("<ol><li>one<li>two<ul><li>inner</ul></ol>", "1. one\n2. two\n  - inner"),
        (
            '<a href="https://shop.example/?a=1&amp;b=2">The shop</a>',
            "The shop (https://shop.example/?a=1&b=2)",
        ),
        (
            '<a href="https://shop.example/">https://shop.example</a> '
            '<a href="mailto:a@b.example">a@b.example</a>',
            "https://shop.example a@b.example",
        ),
        ('<a href="https://shop.example/x"><img src="x"></a>', "https://shop.example/x"),
        ("<table><tr><th>Item<th>Price<tr><td>Tea<td>3 &euro;</table>", "Item  Price\nTea  3 €"),
        ("<pre>a\n  b</pre>after", "a\n  b\n\nafter"),
        (
            '<div style="display: none">preview</div><title>t</title>Seen<!-- not -->'
            "<script>alert(1)</script>",
            "Seen",
        ),
        ('<meta charset="latin-1"><img alt="Logo"> Grüße 😀', "Logo Grüße 😀"),
        ("a < b & c", "a < b & c"),
        ("", ""),
    ],
)
def test_html_alone_gets_a_plain_text_part(html: str, text: str) -> None:
    assert plain_text(html) == text + "\n"


def test_the_outbox_writes_a_labelled_mail(tmp_path: Path) -> None:
    mail = Mail(
        id="m-1",
        to=["Ada <ada@example.com>"],
        cc=["c@example.com"],
        subject="Grüße",
        text="Hi\n",
        html="<p>Hi</p>",
        attachments=[{"filename": "a.txt", "content": "YWJj", "type": "text/plain"}],
    )
    sent = OutboxMailer(folder=str(tmp_path)).send(mail)
    assert sent["delivered"] is False
    message = message_from_bytes((tmp_path / "m-1.eml").read_bytes(), policy=policy.default)
    assert message["To"] == "Ada <ada@example.com>"
    assert message["Subject"] == "Grüße"
    assert "not delivered" in message["X-Runyard-Outbox"]
    parts = {part.get_content_type() for part in message.walk()}
    assert {"text/plain", "text/html"} <= parts
    assert [part.get_filename() for part in message.iter_attachments()] == ["a.txt"]


def written(folder: Path, **fields: object) -> tuple[bytes, EmailMessage]:
    """Send a mail to the outbox; return the file's content, raw and parsed."""
    mail = Mail.model_validate(
        {"id": "m", "to": ["ada@example.com"], "subject": "s", "text": "t", **fields}
    )
    OutboxMailer(folder=str(folder)).send(mail)
    raw = (folder / "m.eml").read_bytes()
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return raw, message


def test_the_outbox_writes_addresses_that_every_mail_server_accepts(tmp_path: Path) -> None:
    addresses = [
        "Jörg <info@müller.example>",
        '"Lovelace, Ada" <ada@example.com>',
        "山田 太郎 <taro@例え.jp>",
    ]
    raw, message = written(
        tmp_path, to=addresses, cc=["b@example.com"], reply_to="Zoë <zoe@müller.example>"
    )
    assert raw.isascii()
    recipients = message["To"].addresses
    assert [(recipient.display_name, recipient.addr_spec) for recipient in recipients] == [
        ("Jörg", "info@xn--mller-kva.example"),
        ("Lovelace, Ada", "ada@example.com"),
        ("山田 太郎", "taro@xn--r8jz45g.jp"),
    ]
    assert message["Reply-To"].addresses[0].addr_spec == "zoe@xn--mller-kva.example"
    assert not message["To"].defects


def test_only_an_address_with_a_non_ascii_local_part_is_written_in_utf_8(
    tmp_path: Path,
) -> None:
    raw, message = written(tmp_path, to=["Jörg <jörg@müller.example>"])
    assert "jörg@xn--mller-kva.example".encode() in raw
    assert b"=?" not in raw
    assert str(message["To"]) == "Jörg <jörg@xn--mller-kva.example>"


def test_the_outbox_keeps_the_parameters_of_a_media_type(tmp_path: Path) -> None:
    attachment = {"filename": "räport.csv", "content": "w7w=", "type": 'text/csv; charset="utf-8"'}
    [part] = written(tmp_path, attachments=[attachment])[1].iter_attachments()
    assert (part.get_content_type(), part.get_param("charset"), part.get_filename()) == (
        "text/csv",
        "utf-8",
        "räport.csv",
    )
    assert part.get_content() == "ü"


def test_a_mail_without_text_has_its_html_alone(tmp_path: Path) -> None:
    message = written(tmp_path, text="\n", html="<img src='cid:1'>")[1]
    assert message.get_content_type() == "text/html"


def test_an_invalid_sender_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        NonRetriable, match="a mail cannot have this address: 'me' is not an e-mail address"
    ):
        OutboxMailer(folder=str(tmp_path), sender="me").send(
            Mail(id="m", to=["ada@example.com"], subject="s", text="t")
        )


def test_secrets_are_removed_from_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "s3cr3t-value")
    assert (
        redact("failed with s3cr3t-value at postgresql://me:hunter2@db/x")
        == "failed with [redacted] at postgresql://me:[redacted]@db/x"
    )
