"""This project's pages of the dev page: mails, generated texts, images and videos."""

import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from resources.email.outbox import OutboxMail, read_mail
from resources.media.store import MOST_VIDEO_BYTES, SUFFIXES, VIDEOS, MediaStore
from resources.media.uploads import own_name, receive
from runyard.gateway.dev.functions import open_invocations
from runyard.gateway.dev.page import Page, Values, Visit
from runyard.gateway.dev.uploads import Uploads
from runyard.gateway.http.endpoint import not_found
from runyard.store import database

TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "dev"
_SHOWN = 50
# A mail's HTML and uploaded files must not be able to do anything, whatever they contain.
_FOREIGN = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=3600",
    "Referrer-Policy": "no-referrer",
}
_IN_FRAME = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)
_NOTHING = "sandbox; default-src 'none'"
# The name of a file in the media store: its checksum.
_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_TYPES = {
    suffix: f"{'video' if kind in VIDEOS else 'image'}/{kind}" for kind, suffix in SUFFIXES.items()
}


def mails(visit: Visit) -> Values:
    """The newest mails, sent or put into the outbox."""
    return _page(
        visit,
        "app.email_messages",
        "id, event_id, recipients, subject, template, provider, status, error, created_at",
    )


def mail(visit: Visit) -> Values:
    """One mail, complete where the outbox still has it."""
    return {"row": _row(visit, "mail", "app.email_messages"), "mail": read_mail(visit.path("id"))}


def mail_html(visit: Visit) -> Response:
    """The HTML of a mail, for a frame that runs no scripts."""
    html = _in_outbox(visit).html
    if html is None:
        raise not_found("HTML in mail", visit.path("id"))
    return Response(
        html, media_type="text/html", headers={**_FOREIGN, "Content-Security-Policy": _IN_FRAME}
    )


def mail_attachment(visit: Visit) -> Response:
    """An attachment of a mail, as a download."""
    attachments = _in_outbox(visit).attachments
    number = visit.path("number")
    is_number = number.isascii() and number.isdecimal() and len(number) < 5
    if not is_number or int(number) >= len(attachments):
        raise not_found("attachment", number)
    attachment = attachments[int(number)]
    name = f"attachment; filename*=UTF-8''{quote(attachment.name, safe='')}"
    headers = {**_FOREIGN, "Content-Disposition": name, "Content-Security-Policy": _NOTHING}
    return Response(attachment.content, media_type="application/octet-stream", headers=headers)


def texts(visit: Visit) -> Values:
    """The newest texts, and those in progress."""
    page = _page(
        visit,
        "app.content",
        "id, event_id, topic, kind, language, status, provider, model, offline, created_at",
    )
    return {**page, "under_way": open_invocations("generate_content")}


def text(visit: Visit) -> Values:
    """One text."""
    return {"row": _row(visit, "text", "app.content")}


def media(visit: Visit) -> Values:
    """The newest images and videos, and those in progress."""
    page = _page(
        visit,
        "app.media",
        "id, event_id, kind, source, width, height, colour, manifest, created_at",
    )
    rows = [
        {**row, "name": own_name(row["source"]), "smallest": _smallest(row["manifest"])}
        for row in page["rows"]
    ]
    return {
        **page,
        "rows": rows,
        "under_way": [*open_invocations("process_image"), *open_invocations("process_video")],
    }


def medium(visit: Visit) -> Values:
    """One image or video with its variants."""
    row = _row(visit, "picture or video", "app.media")
    return {"row": row, "name": own_name(row["source"]), "videos": VIDEOS}


def media_file(visit: Visit) -> Response:
    """A variant's bytes. Originals are not shown, because others have uploaded them."""
    name = PurePosixPath(visit.path("name"))
    folder = visit.path("folder")
    if name.suffix not in _TYPES or not _KEY.fullmatch(f"{folder}/{name.stem}"):
        raise not_found("variant", name)
    try:
        with MediaStore().local(f"{folder}/{name}") as file:
            content = file.read_bytes()
    except FileNotFoundError:
        raise not_found("variant", name) from None
    return Response(
        content,
        media_type=_TYPES[name.suffix],
        headers={**_FOREIGN, "Content-Security-Policy": _NOTHING},
    )


def _page(visit: Visit, table: str, columns: str) -> dict[str, Any]:
    """A page of a table's rows, newest first: ids begin with the time of their event.

    (by the table's primary key)
    """
    before = visit.query_value("before") or None
    statement = f"""
        SELECT {columns} FROM {table} WHERE %(before)s::text IS NULL OR id < %(before)s
        ORDER BY id DESC LIMIT {_SHOWN + 1}"""  # noqa: S608 (ours alone)
    with database.connection() as connection:
        rows = connection.execute(statement.encode(), {"before": before}).fetchall()
    return {
        "rows": rows[:_SHOWN],
        "further": rows[_SHOWN - 1]["id"] if len(rows) > _SHOWN else None,
        "before": before,
    }


def _row(visit: Visit, what: str, table: str) -> dict[str, Any]:
    """One row. (by the table's primary key)"""
    with database.connection() as connection:
        statement = f"SELECT * FROM {table} WHERE id = %s"  # noqa: S608 (ours)
        row = connection.execute(statement.encode(), (visit.path("id"),)).fetchone()
    if row is None:
        raise not_found(what, visit.path("id"))
    return row


def _in_outbox(visit: Visit) -> OutboxMail:
    outbox_mail = read_mail(visit.path("id"))
    if outbox_mail is None:
        raise not_found("mail in the outbox", visit.path("id"))
    return outbox_mail


def _smallest(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The variant to show in a list: the smallest image that is not tiny."""
    images = [file for file in manifest["variants"] if file["format"] not in VIDEOS]
    images.sort(key=lambda file: int(file["width"]))
    large_enough = [file for file in images if file["width"] >= 160]
    return next(iter(large_enough or images[-1:]), None)


UPLOADS = Uploads(receive, MOST_VIDEO_BYTES)
PAGES = [
    Page("/outbox", "outbox", mails, menu="Outbox", refresh_seconds=2.0),
    Page("/outbox/{id}", "mail", mail),
    Page("/outbox/{id}/html", "", mail_html),
    Page("/outbox/{id}/attachments/{number}", "", mail_attachment),
    Page("/content", "content", texts, menu="Content", refresh_seconds=0.5),
    Page("/content/{id}", "text", text),
    Page("/media", "media", media, menu="Media", refresh_seconds=1.0),
    Page("/media/{id}", "medium", medium),
    Page("/media/files/{folder}/{name}", "", media_file),
]
