"""The dev page sends several events at once, and takes uploads."""

import json
import os
import re
import select
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from resources.media import uploads
from resources.media.store import MOST_IMAGE_BYTES, MOST_VIDEO_BYTES, MediaStore, uploads_folder
from runyard.gateway.api.events import MAX_EVENTS
from tests.conftest import wait_until
from tests.http.visitor import Visitor
from tests.tables import rows
from tests.web_process import WebProcess, count

PAGE = "/dev/send/several"


@pytest.fixture
def visitor(web: WebProcess) -> Visitor:
    return Visitor(web, "all")


def sent(visitor: Visitor, events: str, do: str = "send") -> tuple[int, str]:
    """The status and the page after sending these events by the form."""
    response = visitor.post(PAGE, page=PAGE, events=events, do=do)
    return response.status_code, response.text


ARRAY = json.dumps([{"name": "also/one", "data": {"n": 1}}, {"name": "also/two"}])
LINES = '{"name": "also/one", "data": {"n": 1}}\r\n\r\n  {"name": "also/two"}\r\n'
ONE = '{\n  "name": "also/one"\n}'


@pytest.mark.parametrize("events", [ARRAY, LINES], ids=["an array", "lines"])
def test_events_are_sent_and_their_ids_listed_in_order(visitor: Visitor, events: str) -> None:
    status, page = sent(visitor, events)
    assert status == 200
    assert "2 events were sent" in page
    stored = rows("SELECT id, name, source FROM runyard.events ORDER BY id")
    assert [(row["name"], row["source"]) for row in stored] == [
        ("also/one", "dev page"),
        ("also/two", "dev page"),
    ]
    assert re.findall(r'href="/dev/events/(\w+)"', page) == [row["id"] for row in stored]


def test_one_event_may_have_several_lines(visitor: Visitor) -> None:
    assert "1 event was sent" in sent(visitor, ONE)[1]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_what_ends_a_line_elsewhere_is_part_of_a_text(visitor: Visitor, character: str) -> None:
    data = {"a": f"one{character}line"}
    event = json.dumps({"name": "also/one", "data": data}, ensure_ascii=False)
    assert "2 events were sent" in sent(visitor, f"{event}\r\n{event}\r\n")[1]
    assert [row["data"] for row in rows("SELECT data FROM runyard.events")] == [data] * 2


def test_a_check_sends_nothing(visitor: Visitor) -> None:
    assert "2 events are valid." in sent(visitor, LINES, do="check")[1]
    assert count() == 0


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ("", "there is no event"),
        ("[]", "there is no event"),
        ('{"name": "a/b"}\n{"name": ', "<code>line 2</code>: it is not JSON"),
        ('[{"name": "a/b"}, 7]', "<code>[1]</code>: an event is a JSON object"),
        ('{"name": "a/b"}\n{"nam": "a/b"}', "<code>line 2: nam</code>: unknown field"),
        ('[{"name": "email/send.requested", "data": {}}]', "<code>[0]: data.to</code>: "),
        ("[" * 100_000, "nested too deeply"),
        (f'{{"name": "a/b", "data": {{"n": {"9" * 10_000}}}}}', "more than 4300 digits"),
        (json.dumps([{"name": "a/b"}] * (MAX_EVENTS + 1)), "5000 may be sent at once"),
        ('["\\ud800"]', "an event is a JSON object"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_nothing_is_sent(
    visitor: Visitor, events: str, problem: str
) -> None:
    status, page = sent(visitor, events)
    assert status == 400
    assert problem in page
    assert count() == 0


def test_the_text_and_the_first_problems_stay(visitor: Visitor) -> None:
    _, page = sent(visitor, '{"nam": "<b>"}\n' * 30)
    assert page.count("unknown field") == 20
    assert "And 10 more." in page
    assert "{&#34;nam&#34;: &#34;&lt;b&gt;&#34;}" in page


def test_a_key_that_only_reads_sends_nothing(web: WebProcess) -> None:
    assert sent(Visitor(web, "read"), LINES)[0] == 403
    assert count() == 0


FORM = "/dev/send?name=media/image.uploaded"


def uploaded(
    visitor: Visitor, content: bytes, name: str = "photo.jpg", **headers: str
) -> httpx.Response:
    """The response to an upload as the script of the form sends it."""
    sent = {
        "Origin": str(visitor.http.base_url),
        "Content-Type": "application/octet-stream",
        "X-Runyard-Token": visitor.token(FORM),
        **headers,
    }
    return visitor.http.post("/dev/uploads", params={"name": name}, content=content, headers=sent)


def files() -> list[Path]:
    """All files that have been uploaded."""
    folder = uploads_folder() / "dev-page"
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.fixture
def no_files() -> Iterator[None]:
    shutil.rmtree(uploads_folder() / "dev-page", ignore_errors=True)
    yield
    shutil.rmtree(uploads_folder() / "dev-page", ignore_errors=True)


@pytest.mark.usefixtures("no_files")
def test_an_upload_is_a_file_that_the_event_can_name(visitor: Visitor, tmp_path: Path) -> None:
    response = uploaded(visitor, b"\xff\xd8 a picture" * 100_000)
    assert response.status_code == 201
    MediaStore().fetch(response.json()["value"], tmp_path / "copy", MOST_IMAGE_BYTES)
    assert (tmp_path / "copy").read_bytes() == b"\xff\xd8 a picture" * 100_000


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("my photo.jpg", "-my-photo.jpg"),
        ("../../etc/passwd", "-etc-passwd"),
        ("", "-file"),
        ("\u00fc\u00fc", "-file"),
        ("x" * 300, "-" + "x" * 80),
    ],
)
@pytest.mark.usefixtures("no_files")
def test_an_upload_has_a_plain_name_in_a_folder_of_its_own(
    visitor: Visitor, name: str, ending: str
) -> None:
    value = uploaded(visitor, b"x", name).json()["value"]
    assert re.fullmatch(r"dev-page/\w{26}" + re.escape(ending), value)
    assert [file.name for file in files()] == [value.removeprefix("dev-page/")]


def begin_upload(web: WebProcess, visitor: Visitor, size: int) -> socket.socket:
    """A connection on which an upload of this size has begun."""
    head = (
        f"POST /dev/uploads?name=a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
        f"X-Runyard-Token: {visitor.token(FORM)}\r\n"
        f"Cookie: runyard_dev={visitor.http.cookies['runyard_dev']}\r\n\r\nhalf"
    )
    connection = socket.create_connection(("127.0.0.1", web.port))
    connection.sendall(head.encode())
    return connection


@pytest.mark.usefixtures("no_files")
def test_an_upload_that_is_too_large_is_rejected_before_it_arrives(
    web: WebProcess, visitor: Visitor
) -> None:
    with begin_upload(web, visitor, MOST_VIDEO_BYTES + 1) as connection:
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"the file is larger than 2048 MiB" in response
    assert files() == []


@pytest.mark.usefixtures("no_files")
def test_an_upload_that_breaks_off_leaves_nothing(web: WebProcess, visitor: Visitor) -> None:
    with begin_upload(web, visitor, 100):
        assert wait_until(lambda: len(files()) == 1)
    assert wait_until(lambda: files() == [])


@pytest.mark.usefixtures("no_files")
def test_an_upload_that_stalls_ends_and_leaves_nothing(web: WebProcess, visitor: Visitor) -> None:
    with begin_upload(web, visitor, 100) as connection:
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 408 ")
    assert files() == []


@pytest.mark.usefixtures("no_files")
def test_an_upload_that_trickles_in_ends_and_leaves_nothing(
    web: WebProcess, visitor: Visitor
) -> None:
    with begin_upload(web, visitor, 1_000_000) as connection:
        while not select.select([connection], [], [], 0.1)[0]:
            connection.sendall(b"x")
        response = connection.makefile("rb").read()
    assert response.startswith(b"HTTP/1.1 408 ")
    assert files() == []


@pytest.mark.parametrize(
    "headers", [{"X-Runyard-Token": "0" * 64}, {"Origin": "https://evil.example"}]
)
@pytest.mark.usefixtures("no_files")
def test_pages_of_others_upload_nothing(visitor: Visitor, headers: dict[str, str]) -> None:
    assert uploaded(visitor, b"x", **headers).status_code == 403
    assert files() == []


@pytest.mark.usefixtures("no_files")
def test_a_key_that_only_reads_uploads_nothing(web: WebProcess) -> None:
    reader = Visitor(web, "read")
    assert uploaded(reader, b"x").status_code == 403
    assert "data-upload" not in reader.get(FORM).text
    assert files() == []


@pytest.mark.usefixtures("no_files")
def test_uploads_are_deleted_after_a_week(visitor: Visitor) -> None:
    uploaded(visitor, b"old")
    [old] = files()
    os.utime(old, (0, time.time() - 8 * 86_400))
    uploaded(visitor, b"new")
    assert [file.read_bytes() for file in files()] == [b"new"]


def test_the_oldest_uploads_make_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uploads, "uploads_folder", lambda: tmp_path)
    monkeypatch.setattr(uploads, "_KEPT_BYTES", 10)
    for number in range(3):
        with uploads.receive(f"{number}.bin") as upload:
            upload.write(b"x" * 4)
        os.utime(tmp_path / upload.value, (0, time.time() + number))
    with uploads.receive("3.bin") as upload:
        upload.write(b"x" * 4)
    names = sorted(file.name[-5:] for file in (tmp_path / "dev-page").iterdir())
    assert names == ["1.bin", "2.bin", "3.bin"]


def test_the_form_has_an_upload_beside_the_field_of_a_file_alone(visitor: Visitor) -> None:
    page = visitor.get(FORM).text
    assert re.findall(r'data-upload="([^"]+)"', page) == ["data.source"]
    assert 'id="data.source"' in page
