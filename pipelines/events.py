"""The event types of all families: what an application may send, validated when it is sent.

Light to import: an application that sends events needs this module and `runyard`, not Dagster.
"""

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from resources.email import addresses
from resources.email.addresses import LONGEST_ADDRESS
from resources.email.templates import template_names
from runyard import EventData, event_type
from runyard.events import MAX_EVENT_BYTES

MAX_RECIPIENTS = 1000  # SendGrid's limit for one mail/send request
MAX_ATTACHMENT_BYTES = 350 * 1024  # fits into an event with its other fields
LONGEST_SEND_AT = timedelta(hours=72)  # SendGrid's limit
MAX_ATTACHMENTS = 100
RECIPIENTS = ("to", "cc", "bcc")
# A media type (RFC 2045), which may have parameters: `text/csv; charset=utf-8`.
_WORD = r"[A-Za-z0-9_!#$&^.+-]+"
MEDIA_TYPE = rf'^{_WORD}/{_WORD}(\s*;\s*{_WORD}=({_WORD}|"[^"\\;]*"))*\s*;?$'
# Unicode's line breaks (U+0085, U+2028, U+2029) end a header as well.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _one_line(text: str) -> str:
    """Reject what could start another header."""
    if _CONTROL.search(text):
        raise ValueError("must be one line, without control characters")
    return text


def _address(text: str) -> str:
    """The normal form of an address: `ada@example.com` or `Ada Lovelace <ada@example.com>`."""
    normalized = str(addresses.Mailbox.parse(text))
    # Its normal form is passed on in other events, which reject longer ones.
    if len(normalized) > LONGEST_ADDRESS:
        raise ValueError(f"{addresses.shown(text)} has too long a name; the address is enough")
    return normalized


def _not_blank(text: str) -> str:
    """Reject a blank text."""
    if not text.strip():
        raise ValueError("is blank")
    return text


def _is_blank(text: str | None) -> bool:
    return text is None or not text.strip()


def _wrong(model: type[BaseModel], field: str, message: str) -> ValidationError:
    """An error of one field that only shows in combination with others, reported for that field."""
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    problem = InitErrorDetails(type=error, loc=(field,), input=None)
    return ValidationError.from_exception_data(model.__name__, [problem])


def _base64(text: str) -> bytes:
    """The bytes of base64, which may contain line breaks."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


def _as_list(value: object) -> object:
    """The addresses of a text that separates them with commas; a list is returned unchanged.

    Too many are rejected before any is parsed.
    """
    texts = addresses.split(value) if isinstance(value, str) else value
    if isinstance(texts, list) and len(texts) > MAX_RECIPIENTS:
        raise ValueError(
            f"has {len(texts)} addresses; a mail may have {MAX_RECIPIENTS}. Send several mails"
        )
    if not isinstance(value, str) or not isinstance(texts, list):
        return value
    # Parsed here, so that an error names the field, which has no items.
    return [_address(text) for text in texts or [value]]


Line = Annotated[str, AfterValidator(_one_line)]
Address = Annotated[str, AfterValidator(_address)]
User = Annotated[
    str, Field(min_length=1, max_length=200, description="The user's id in the application.")
]
Link = Annotated[
    str, Field(pattern=r"^https?://", max_length=2000, description="Where a button leads.")
]
UserAddress = Annotated[
    Address, Field(description="The user's address.", examples=["ada@example.com"])
]
Title = Annotated[
    Line,
    Field(
        max_length=200, description="A line that says it all.", examples=["Your report is ready"]
    ),
]
Message = Annotated[
    str, Field(max_length=20_000, description="The text below it.", examples=["It has 12 pages."])
]
Provider = Annotated[
    Literal["gemini", "openai", "offline"],
    Field(description="The provider, if not the one in the settings."),
]
# Only the first invalid address is reported.
Addresses = Annotated[
    list[Address], Field(max_length=MAX_RECIPIENTS, fail_fast=True), BeforeValidator(_as_list)
]
_Source = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        description="A URL, or the name of a file below the uploads folder.",
        json_schema_extra={"x-upload": True},  # the dev page can upload one
    ),
]
# As long as an event may be.
Text = Annotated[str, Field(max_length=MAX_EVENT_BYTES)]


class Attachment(BaseModel):
    """A file attached to a mail: its name, its bytes in base64, its media type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filename: Annotated[Line, Field(min_length=1, max_length=255)] = Field(
        description="The name under which it is attached."
    )
    content: Text = Field(description="Its bytes in base64.")
    type: Annotated[Line, Field(pattern=MEDIA_TYPE, max_length=255)] = Field(
        default="application/octet-stream", description="Its media type."
    )

    @field_validator("content")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        content = _base64(value)
        if not content:
            raise ValueError("is empty; an attachment needs at least one byte")
        if len(content) > MAX_ATTACHMENT_BYTES:
            raise ValueError(
                f"has {len(content)} bytes; attachments may have {MAX_ATTACHMENT_BYTES} in all. "
                "Put the file elsewhere and send a link"
            )
        return base64.b64encode(content).decode()

    def size(self) -> int:
        """The file's size in bytes."""
        return len(self.content) * 3 // 4


@event_type(
    "email/send.requested",
    sent_by="applications, `POST /functions/v1/send-email`, and the functions that notify",
)
class EmailSendRequested(EventData):
    """Send a mail: written out (`text`, `html` or both), or from a template with its data."""

    to: Annotated[Addresses, Field(min_length=1, examples=[["ada@example.com"]])] = Field(
        description="The recipients; text with commas between the addresses is taken as well."
    )
    cc: Addresses = Field(default_factory=list, description="Who gets a copy.")
    bcc: Addresses = Field(default_factory=list, description="Blind-copy recipients.")
    reply_to: Address | None = Field(default=None, description="Where replies go.")
    subject: (
        Annotated[Line, Field(min_length=1, max_length=998), AfterValidator(_not_blank)] | None
    ) = Field(default=None, description="Required without a template.")
    template: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="The name of a template.", examples=["welcome"]
    )
    text: Text | None = Field(default=None, description="The mail as plain text.")
    html: Text | None = Field(default=None, description="The mail as HTML.")
    data: dict[str, Any] = Field(
        default_factory=dict,
        description="Values for the template.",
        examples=[{"name": "Ada"}],
    )
    attachments: list[Attachment] = Field(
        default_factory=list,
        max_length=MAX_ATTACHMENTS,
        fail_fast=True,
        description="Files, of up to 350 KiB in all.",
    )
    send_at: datetime | None = Field(
        default=None, description="When SendGrid is to send it, at most 72 hours ahead."
    )

    @model_validator(mode="before")
    @classmethod
    def _has_no_more_recipients(cls, value: Any) -> Any:
        """Reject too many before any is parsed, because parsing takes time."""
        fields = [value.get(field) for field in RECIPIENTS] if isinstance(value, dict) else []
        cls._check_recipients(sum(len(field) for field in fields if isinstance(field, list)))
        return value

    @classmethod
    def _check_recipients(cls, count: int) -> None:
        if count > MAX_RECIPIENTS:
            message = (
                f"to, cc and bcc together have more than {MAX_RECIPIENTS} addresses; send several "
                "mails"
            )
            raise _wrong(cls, "to", message)

    @field_validator("template")
    @classmethod
    def _exists(cls, value: str | None) -> str | None:
        if value is not None and value not in template_names():
            raise ValueError(
                f"there is no template {value!r}; there are: {', '.join(template_names())}"
            )
        return value

    @field_validator("send_at")
    @classmethod
    def _is_soon(cls, value: datetime | None) -> datetime | None:
        if value is not None:
            if value.tzinfo is None:
                raise ValueError("needs a time zone, as in 2026-01-31T09:00:00Z")
            if value > datetime.now(UTC) + LONGEST_SEND_AT:
                raise ValueError(
                    "is more than 72 hours ahead; give the event itself a later ts instead"
                )
        return value

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        model = type(self)
        written = [field for field in ("text", "html") if getattr(self, field) is not None]
        if self.template is not None and written:
            raise _wrong(model, "template", "give a template, or text and html, not both")
        if self.template is None and _is_blank(self.text) and _is_blank(self.html):
            field = written[0] if written else "text"
            raise _wrong(
                model, field, "there is nothing to send: give a template, or text, or html"
            )
        if self.template is None and self.subject is None:
            raise _wrong(model, "subject", "a mail without a template needs a subject")
        self._check_recipients(len(self.to) + len(self.cc) + len(self.bcc))
        if sum(attachment.size() for attachment in self.attachments) > MAX_ATTACHMENT_BYTES:
            message = (
                f"the attachments have more than {MAX_ATTACHMENT_BYTES} bytes together. Put the "
                "files elsewhere and send links"
            )
            raise _wrong(model, "attachments", message)
        return self


@event_type("email/bounced", sent_by="SendGrid's webhook")
class EmailBounced(EventData):
    """A mail to an address bounced for good; the address is suppressed."""

    address: Annotated[
        str,
        Field(
            max_length=LONGEST_ADDRESS,
            description="The recipient's address.",
            examples=["ada@example.com"],
        ),
    ]
    message: Annotated[str, Field(max_length=512)] | None = Field(
        default=None, description="Our id of the mail, as in app.email_messages."
    )
    reason: Annotated[str, Field(max_length=20_000)] | None = Field(
        default=None, description="What the recipient's server or SendGrid says."
    )
    at: datetime = Field(description="When it happened.")


@event_type("email/complained", sent_by="SendGrid's webhook")
class EmailComplained(EmailBounced):
    """A recipient reported a mail as spam; the address is suppressed."""


@event_type("email/unsubscribed", sent_by="SendGrid's webhook")
class EmailUnsubscribed(EmailBounced):
    """A recipient unsubscribed; the address is suppressed."""


@event_type(
    "contact/submitted",
    sent_by="applications and `POST /functions/v1/contact-notification`",
)
class ContactSubmitted(EventData):
    """A visitor submitted the contact form."""

    name: Annotated[
        Line,
        Field(min_length=1, max_length=200, description="The visitor's name.", examples=["Grace"]),
    ]
    email: Annotated[
        Address, Field(description="Where the answer goes.", examples=["grace@example.com"])
    ]
    message: Annotated[
        str,
        Field(
            min_length=1,
            max_length=20_000,
            description="What the visitor wrote.",
            examples=["Do you ship to Arlington?"],
        ),
    ]
    page: Annotated[str, Field(max_length=2000)] | None = Field(
        default=None, description="The page with the form."
    )
    website: str = Field(
        default="",
        max_length=2000,
        description="A field that people do not see; only bots fill it in.",
    )


@event_type(
    "notification/requested",
    sent_by="applications, and `generate_content` when its text is ready",
)
class NotificationRequested(EventData):
    """Notify a user."""

    user: Annotated[User, Field(examples=["ada"])]
    kind: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100,
            description="What it is about, for the user's preferences.",
            examples=["report"],
        ),
    ]
    title: Annotated[Title, Field(min_length=1)]
    message: Message
    action_url: Link | None = None
    channels: list[Literal["in-app", "mail", "webhook"]] | None = Field(
        default=None,
        max_length=10,
        fail_fast=True,
        description="The channels to use; by default those that the user has switched on.",
    )


@event_type(
    "notification/digest.requested",
    sent_by="`notify_user`, for users who want a digest",
)
class NotificationDigestRequested(EventData):
    """Add a notification to the user's next digest mail."""

    user: Annotated[
        str,
        Field(max_length=200, description="The user's id in the application.", examples=["ada"]),
    ]
    email: UserAddress
    title: Title
    message: Message
    action_url: Annotated[str, Field(max_length=2000)] | None = Field(
        default=None, description="Where its button leads."
    )


@event_type("user/created", sent_by="applications")
class UserCreated(EventData):
    """A user created an account."""

    user: Annotated[User, Field(examples=["ada"])]
    email: UserAddress
    name: Annotated[
        Line,
        Field(
            min_length=1,
            max_length=200,
            description="How mails address the user.",
            examples=["Ada"],
        ),
    ]
    product: Annotated[Line, Field(max_length=100)] | None = Field(
        default=None, description="What the user has signed up for."
    )
    action_url: Link | None = None


@event_type("user/returned", sent_by="applications")
class UserReturned(EventData):
    """A user came back: `welcome_user` waits for it."""

    user: Annotated[User, Field(examples=["ada"])]


@event_type("text/generate.requested", sent_by="applications and `POST /functions/v1/gemini`")
class TextGenerateRequested(EventData):
    """Generate a text."""

    prompt: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100_000,
            description="What to write.",
            examples=["A haiku about queues"],
        ),
    ]
    system: Annotated[str, Field(max_length=20_000)] | None = Field(
        default=None, description="Instructions that stand above the prompt."
    )
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = Field(
        default=None, description="The model, if not the provider's default."
    )
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        default=None, description="How freely the model chooses words."
    )
    max_tokens: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        default=None, description="How long the answer may be."
    )
    provider: Provider | None = None
    user: User | None = Field(
        default=None, description="The user whose daily budget it counts against."
    )


@event_type("content/generate.requested", sent_by="applications")
class ContentGenerateRequested(EventData):
    """Write an article, a product description, a social post or the copy of an e-mail."""

    topic: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2000,
            description="What it is about.",
            examples=["Durable queues on PostgreSQL"],
        ),
    ]
    kind: Literal["article", "product description", "social post", "e-mail copy"] = Field(
        default="article", description="What to write."
    )
    audience: Annotated[str, Field(max_length=500)] | None = Field(
        default=None, description="For whom."
    )
    tone: Annotated[str, Field(max_length=200)] | None = Field(
        default=None, description="In which tone."
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = Field(
        default="en", description="In which language (ISO 639-1)."
    )
    length: Annotated[int, Field(ge=20, le=10_000)] = Field(
        default=600, description="How many words."
    )
    provider: Provider | None = None
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")] | None = Field(
        default=None, description="The model, if not the provider's default."
    )
    user: User | None = None
    notify: bool = Field(default=False, description="Notify the user when it is ready.")

    @model_validator(mode="after")
    def _has_somebody_to_tell(self) -> Self:
        if self.notify and self.user is None:
            raise _wrong(type(self), "user", "notify needs a user to notify")
        return self


class Variant(BaseModel):
    """A variant of an image, never larger than the original; `height` crops it to that shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: Annotated[int, Field(ge=1, le=8192, description="Its width in pixels.")]
    height: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        default=None, description="Its height in pixels, to which it is cropped."
    )
    format: Literal["webp", "avif", "jpeg", "png"] = Field(
        default="webp", description="Its format."
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="How well it is compressed; by default as fits the format."
    )


class _Uploaded(EventData):
    source: _Source
    user: User | None = None


@event_type("media/image.uploaded", sent_by="applications")
class MediaImageUploaded(_Uploaded):
    """An image was uploaded: make its variants."""

    source: Annotated[_Source, Field(examples=["photo.jpg"])]
    variants: Annotated[list[Variant], Field(min_length=1, max_length=20, fail_fast=True)] = Field(
        default_factory=lambda: [
            *(Variant(width=width) for width in (320, 640, 1280, 1920)),
            Variant(width=1280, format="jpeg"),
        ],
        description="What to make of it; four widths and a JPEG by default.",
    )
    focal: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = Field(
        default=(0.5, 0.5),
        description="The point that a crop must contain, as fractions of width and height.",
    )
    keep: list[Literal["copyright"]] = Field(
        default_factory=list,
        max_length=10,
        fail_fast=True,
        description="The metadata to keep; everything else is removed.",
    )


@event_type("media/video.uploaded", sent_by="applications")
class MediaVideoUploaded(_Uploaded):
    """A video was uploaded: make a poster and a short preview."""

    source: Annotated[_Source, Field(examples=["clip.mp4"])]


@event_type("sync/requested", sent_by="applications")
class SyncRequested(EventData):
    """Load the tables of a source."""

    source: Annotated[
        str,
        Field(
            pattern=r"^[a-z][a-z0-9_]{0,40}$",
            description="Its name in the list of sources.",
            examples=["sendgrid"],
        ),
    ]
    agree: bool = Field(
        default=False, description="Accept a changed schema, where the source asks for approval."
    )
    preview: bool = Field(default=False, description="Only read, and report what would change.")
