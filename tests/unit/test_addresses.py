"""Mail addresses as people and programs write them."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.events import EmailSendRequested, UserCreated
from resources.email.addresses import Mailbox, bare, split, without_repeats

READ = {
    "ada@example.com": "ada@example.com",
    " Ada <ada@example.com> ": "Ada <ada@example.com>",
    "<ada@example.com>": "ada@example.com",
    "Ada<ada@Example.COM>": "Ada <ada@example.com>",
    '"Lovelace, Ada" <ada@example.com>': '"Lovelace, Ada" <ada@example.com>',
    'Ada "the Countess" King <ada@example.com>': "Ada the Countess King <ada@example.com>",
    "Ada L. King <ada@example.com>": '"Ada L. King" <ada@example.com>',
    "ada@example.com (Ada)": "Ada <ada@example.com>",
    "Jörg <info@müller.example>": "Jörg <info@müller.example>",
    "Jörg <info@xn--mller-kva.example>": "Jörg <info@müller.example>",
    "Zoë Ångström <zoe@example.com>": "Zoë Ångström <zoe@example.com>",
    "山田 太郎 <taro@例え.jp>": "山田 太郎 <taro@例え.jp>",
    "محمد <m@example.com>": "محمد <m@example.com>",
    "Ame\u0301lie <a@example.com>": "Ame\u0301lie <a@example.com>",
    "=?utf-8?b?Wm/DqyDDhW5nc3Ryw7Zt?= <zoe@example.com>": "Zoë Ångström <zoe@example.com>",
    "=?utf-8?q?J=C3=B6rg?= =?utf-8?q?_M=2E?= <j@example.com>": '"Jörg M." <j@example.com>',
    "=?iso-8859-1?Q?J=F6rg?= Müller <j@example.com>": "Jörg Müller <j@example.com>",
    '"=?utf-8?q?J=C3=B6rg?=" <j@example.com>': "Jörg <j@example.com>",
    "jörg@müller.example": "jörg@müller.example",
}
REFUSED = {
    "": "must have an @-sign",
    "ada": "must have an @-sign",
    "Ada <ada@example.com>, Bob <bob@example.com>": (
        "is not one e-mail address: list each address separately"
    ),
    "ada@example.com, bob@example.com": "is not one e-mail address",
    "Lovelace, Ada <ada@example.com>": "put a name with a comma into double quotes",
    "Ada <ada@example.com> Bob <bob@example.com>": "is not one e-mail address",
    "Ada <ada@example.com>; Bob <bob@example.com>": "is not one e-mail address",
    "ada@example.com; bob@example.com": "is not an e-mail address",
    "Ada <ada@example.com> and more": "is not an e-mail address",
    "Ada <ada@example.com": "is not an e-mail address",
    "ada@example": "is not an e-mail address",
    "Ada\n<ada@example.com>": "must be one line",
    "=?utf-8?q?a=0D=0ABcc:_x?= <ada@example.com>": "must be one line",
    "Ada\ud83d <ada@example.com>": "must be one line, without control characters",
    "=?unheard-of?q?Ada?= <ada@example.com>": "cannot be decoded; write it as it is",
    "ada＠example.com": "full-width",
}


def mail(**fields: Any) -> EmailSendRequested:
    return EmailSendRequested.model_validate(
        {"to": "ada@example.com", "subject": "s", "text": "t", **fields}
    )


def refused(**fields: Any) -> tuple[str, str]:
    """The field and the text of the first error."""
    with pytest.raises(ValidationError) as caught:
        mail(**fields)
    first = caught.value.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize("text", READ)
def test_an_address_is_read_as_plain_text_and_stays_so(text: str) -> None:
    assert str(Mailbox.parse(text)) == READ[text]
    assert str(Mailbox.parse(READ[text])) == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_is_not_one_address_is_rejected_with_what_to_do(text: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[text].replace("(", "\\(")):
        Mailbox.parse(text)


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_two_addresses_in_one_text_are_two_addresses(field: str) -> None:
    text = 'Ada <ada@example.com>, "King, Bob" <bob@example.com>,carl@example.com,'
    expected = ["Ada <ada@example.com>", '"King, Bob" <bob@example.com>', "carl@example.com"]
    assert getattr(mail(**{field: text}), field) == expected


def test_two_addresses_in_one_item_of_a_list_are_refused_with_its_place() -> None:
    field, message = refused(
        to=["carl@example.com", "Ada <ada@example.com>, Bob <bob@example.com>"]
    )
    assert field == "to.1"
    assert "is not one e-mail address" in message


def test_two_addresses_to_answer_to_are_refused() -> None:
    assert refused(reply_to="ada@example.com, bob@example.com")[0] == "reply_to"


def test_a_bad_address_in_a_text_is_reported_for_its_field() -> None:
    assert refused(to="ada@example.com, bob") == (
        "to",
        "' bob' is not an e-mail address: An email address must have an @-sign.",
    )


def test_a_text_of_very_many_addresses_is_counted_before_they_are_read() -> None:
    assert (
        refused(to="a," * 200_000)[1]
        == "has 200000 addresses; a mail may have 1000. Send several mails"
    )


@pytest.mark.parametrize("field", ["cc", "bcc"])
def test_recipients_are_counted_in_all_fields_together(field: str) -> None:
    assert refused(**{field: ["a@example.com"] * 1000}) == (
        "to",
        "to, cc and bcc together have more than 1000 addresses; send several mails",
    )


def test_other_families_take_the_same_addresses() -> None:
    created = UserCreated.model_validate(
        {"user": "u", "name": "Jörg", "email": "=?utf-8?q?J=C3=B6rg?= <info@müller.example>"}
    )
    assert created.email == "Jörg <info@müller.example>"


def test_a_comma_in_quotes_or_brackets_separates_nothing() -> None:
    assert split('"a, \\"b, c" <x@example.com>,<d,e>,f') == [
        '"a, \\"b, c" <x@example.com>',
        "<d,e>",
        "f",
    ]


@pytest.mark.parametrize(
    "text", ["INFO@MÜLLER.example", "x <info@xn--mller-kva.example>", "Info@Xn--Mller-Kva.Example"]
)
def test_one_address_is_compared_alike_however_its_domain_is_written(text: str) -> None:
    assert bare(text) == "info@müller.example"


def test_an_address_in_several_fields_stays_in_the_first_only() -> None:
    given = {
        "to": ["Ada <ada@example.com>", "ADA@example.com"],
        "cc": ["ada@EXAMPLE.com", "bob@example.com"],
        "bcc": ["Bob <BOB@example.com>", "carl@example.com"],
    }
    assert without_repeats(given) == {
        "to": ["Ada <ada@example.com>"],
        "cc": ["bob@example.com"],
        "bcc": ["carl@example.com"],
    }


@pytest.mark.parametrize(
    "fields",
    [{"text": ""}, {"text": " \n"}, {"text": None, "html": ""}, {"text": "", "html": "\t"}],
)
def test_a_mail_with_nothing_to_send_is_refused(fields: dict[str, Any]) -> None:
    field, message = refused(**fields)
    assert field == ("html" if fields["text"] is None else "text")
    assert message == "there is nothing to send: give a template, or text, or html"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"subject": " "}, "subject"),
        ({"subject": None}, "subject"),
        ({"template": "welcome"}, "template"),
        ({"text": None}, "text"),
        ({"attachments": [{"filename": "a", "content": "YQ" * 120_000}] * 3}, "attachments"),
    ],
)
def test_an_error_names_its_own_field_among_several(fields: dict[str, Any], field: str) -> None:
    assert refused(**fields)[0] == field


@pytest.mark.parametrize("text", ["YSxi\nMSwy", "YSxi\r\nMSwy\r\n", " YSxiMSwy "])
def test_base64_may_be_broken_into_lines(text: str) -> None:
    [attachment] = mail(attachments=[{"filename": "r.csv", "content": text}]).attachments
    assert attachment.content == "YSxiMSwy"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("YSx", "must be base64"),
        ("data:,a", "must be base64"),
        ("", "is empty"),
        (" \n", "is empty"),
    ],
)
def test_an_empty_attachment_is_rejected(text: str, says: str) -> None:
    field, message = refused(attachments=[{"filename": "r.csv", "content": text}])
    assert field == "attachments.0.content"
    assert says in message


@pytest.mark.parametrize(
    "text",
    [
        "text/csv",
        "text/csv; charset=utf-8",
        'text/csv;charset="utf-8";header=present',
        "application/vnd.ms-excel",
        "image/svg+xml ; a=b",
    ],
)
def test_a_media_type_may_have_parameters(text: str) -> None:
    assert (
        mail(attachments=[{"filename": "r", "content": "YQ==", "type": text}]).attachments[0].type
        == text
    )


@pytest.mark.parametrize(
    "text",
    [
        "csv",
        "text/",
        "text/csv; charset",
        "text/csv, text/plain",
        "text/csv; a=b\r\nBcc: x",
        "téxt/csv",
    ],
)
def test_an_invalid_media_type_is_rejected(text: str) -> None:
    assert (
        refused(attachments=[{"filename": "r", "content": "YQ==", "type": text}])[0]
        == "attachments.0.type"
    )
