"""The project's pages of the dev page: mails, texts, images and videos."""

import base64
import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from demo import sample_media
from resources.media import sandbox
from runyard import send
from runyard.gateway.app import build_app
from runyard.gateway.dev import health
from runyard.settings import settings
from runyard.testing import Yard
from tests.conftest import ROOT, wait_until
from tests.tables import rows


@pytest.fixture(scope="module", autouse=True)
def _children() -> Iterator[None]:
    yield
    sandbox.close()


@pytest.fixture
def page(fresh: None) -> Iterator[TestClient]:
    """The web application, in development."""
    with TestClient(build_app(None, development=True), base_url="http://localhost") as client:
        yield client


def links(text: str, below: str) -> list[str]:
    return re.findall(rf'href="({below}/[^"?]+)"', text)


def test_a_mail_is_there_whole(yard: Yard, page: TestClient) -> None:
    attachment = {
        "filename": "räport <1>.txt",
        "content": base64.b64encode(b"twelve pages").decode(),
        "type": "text/plain",
    }
    html = "<h1>Hello</h1><script>alert(1)</script>"
    yard.send(
        "email/send.requested",
        {
            "to": ["ada@example.com"],
            "cc": "bob@example.com",
            "subject": "A <b>report</b>",
            "text": "plain",
            "html": html,
            "attachments": [attachment],
        },
    )
    yard.work()
    listed = page.get("/dev/outbox").text
    assert "A &lt;b&gt;report&lt;/b&gt;" in listed
    assert "in the local outbox: not delivered" in listed
    [address] = links(listed, "/dev/outbox")
    shown = page.get(address).text
    assert "Cc: bob@example.com" in shown
    assert "plain" in shown
    assert "räport &lt;1&gt;.txt" in shown
    assert "alert(1)" not in shown
    framed = page.get(f"{address}/html")
    assert framed.text.strip() == html
    assert framed.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    saved = page.get(f"{address}/attachments/0")
    assert saved.content == b"twelve pages"
    assert saved.headers["content-disposition"].startswith("attachment")
    assert saved.headers["content-type"] == "application/octet-stream"
    assert (
        page.get(f"{address}/attachments/1").status_code
        == 404
        == page.get(f"{address}/attachments/x").status_code
        == page.get(f"{address}/attachments/0000000001").status_code
    )


def test_a_mail_that_is_no_longer_in_the_outbox_is_still_listed(
    yard: Yard, page: TestClient, tmp_path: Path
) -> None:
    yard.send(
        "email/send.requested",
        {"to": ["ada@example.com"], "template": "welcome", "data": {"name": "Ada"}},
    )
    yard.work()
    [address] = links(page.get("/dev/outbox").text, "/dev/outbox")
    for file in (tmp_path / "outbox").glob("*.eml"):
        file.unlink()
    assert "This mail is not in the outbox any more" in page.get(address).text
    assert page.get(f"{address}/html").status_code == 404


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", "..", ".", "%00", "a%0Ab"]
)
def test_no_other_file_is_read_for_a_mail(page: TestClient, name: str) -> None:
    for path in (
        f"/dev/outbox/{name}",
        f"/dev/outbox/{name}/html",
        f"/dev/outbox/{name}/attachments/0",
    ):
        assert "root:" not in page.get(path).text


@pytest.mark.parametrize("name", ["a" * 252, "a" * 300, "a" * 3000])
@pytest.mark.parametrize(
    "path",
    [
        "/dev/outbox/{}/html",
        "/dev/outbox/{}/attachments/0",
        "/dev/media/files/aa/{}.webp",
        "/dev/media/files/aaaa{}/a.webp",
    ],
)
def test_a_name_that_nothing_can_have_is_not_found(
    page: TestClient, tmp_path: Path, path: str, name: str
) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "media" / "aa").mkdir(parents=True)
    assert page.get(path.format(name)).status_code == 404


def test_a_text_is_there_with_where_it_came_from_and_what_is_under_way(
    yard: Yard, page: TestClient
) -> None:
    yard.send(
        "content/generate.requested", {"topic": "Queues & <locks>", "length": 300, "user": "ada"}
    )
    assert "In progress" in page.get("/dev/content").text
    assert "Queues &amp; &lt;locks&gt;" in page.get("/dev/content").text
    rows(
        "INSERT INTO runyard.progress (invocation_id, step, percent, text)"
        " SELECT id, 'section-1', 40, 'section 1 of 2' FROM runyard.invocations RETURNING id"
    )
    writing = page.get("/dev/content").text
    assert "section 1 of 2 (40 %)" in writing
    assert re.search(r'<progress [^>]*max="100" value="40', writing)
    yard.work()
    listed = page.get("/dev/content").text
    assert "In progress" not in listed
    assert "a placeholder from the offline generator" in listed
    [address] = links(listed, "/dev/content")
    shown = page.get(address).text
    assert "no model has written it" in shown
    assert "outline" in shown
    assert "needs review" in shown


def test_a_picture_is_there_with_its_variants_and_its_original_is_not_shown(
    yard: Yard, page: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "photo.jpg").write_bytes(
        sample_media.jpeg(sample_media.photo(800, 600))
    )
    yard.send("media/image.uploaded", {"source": "photo.jpg"})
    yard.work()
    listed = page.get("/dev/media").text
    [address] = [link for link in links(listed, "/dev/media") if "/files/" not in link]
    shown = page.get(address).text
    files = sorted({*re.findall(r'src="(/dev/media/files/[^"]+)"', shown)})
    assert len(files) >= 3
    for file in files:
        answer = page.get(file)
        assert answer.headers["content-type"].startswith("image/")
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert Image.open(io.BytesIO(answer.content)).width <= 800
    original = re.search(
        r"&#34;original&#34;: \{\s+&#34;\w+&#34;: .*?&#34;key&#34;: &#34;(\w+/\w+)&#34;",
        shown,
        re.DOTALL,
    ) or re.search(r"&#34;key&#34;: &#34;(\w\w/[0-9a-f]{64})&#34;", shown)
    assert original is not None
    assert page.get(f"/dev/media/files/{original[1]}").status_code == 404
    assert page.get("/dev/media/files/manifests/x.json").status_code == 404


def test_a_video_is_there_with_its_preview(yard: Yard, page: TestClient, tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    sample_media.video(tmp_path / "uploads" / "film.mp4")
    yard.send("media/video.uploaded", {"source": "film.mp4"})
    yard.work()
    [address] = [
        link for link in links(page.get("/dev/media").text, "/dev/media") if "/files/" not in link
    ]
    preview = re.search(r'<video src="([^"]+)"', page.get(address).text)
    assert preview is not None
    answer = page.get(preview[1])
    assert preview[1].endswith(".webm")
    assert answer.headers["content-type"] == "video/webm"
    assert b"webm" in answer.content[:64]


def test_older_ones_are_on_the_next_page(yard: Yard, page: TestClient) -> None:
    for number in range(55):
        yard.send(
            "email/send.requested",
            {"to": ["ada@example.com"], "subject": f"number {number:02}", "text": "x"},
        )
    yard.work()
    first = page.get("/dev/outbox").text
    older = re.search(r'href="(/dev/outbox\?before=[^"]+)">Older', first)
    assert older is not None
    second = page.get(older[1]).text
    seen = re.findall(r"number (\d\d)<", first) + re.findall(r"number (\d\d)<", second)
    assert seen == [f"{number:02}" for number in reversed(range(55))]
    assert "data-live" not in second


def documented(heading: str) -> str:
    """The Python code below a heading of the documentation of the dev page."""
    text = (ROOT / "docs" / "dev-page.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(code)


def test_the_uploads_of_the_documentation_are_kept(
    page: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del page
    code = documented("Uploads").replace("/srv/uploads", str(tmp_path))
    (tmp_path / "my_uploads.py").write_text(f"{code}\nPAGES, TEMPLATES = [], Path()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(settings(), "pages", "my_uploads")
    with TestClient(build_app(None, development=True), base_url="http://localhost") as client:
        token = re.findall(r'name="token" value="(\w+)"', client.get("/dev/send/several").text)[0]
        sent = {"X-Runyard-Token": token, "Content-Type": "application/octet-stream"}
        kept = client.post("/dev/uploads?name=a.png", content=b"picture", headers=sent)
    assert kept.status_code == 201
    assert (tmp_path / kept.json()["value"]).read_bytes() == b"picture"


def test_the_page_of_the_documentation_is_one(
    page: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del page
    code = documented("Adding your own pages")
    (tmp_path / "my_pages.py").write_text(code)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "orders.html").write_text(
        '{% extends "base.html" %}{% block title %}Orders{% endblock %}'
        "{% block main %}<h1>Orders</h1>"
        '<div id="live" data-live>{% include "orders.live.html" %}</div>{% endblock %}'
    )
    (tmp_path / "templates" / "orders.live.html").write_text(
        "{% for order in orders %}"
        "<p>{{ order.number }}: {{ order.total }} {{ number }}</p>{% endfor %}"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(settings(), "pages", "my_pages")
    with TestClient(build_app(None, development=True), base_url="http://localhost") as client:
        shown = client.get("/dev/orders?number=<7>").text
        assert '<a href="/dev/orders" aria-current="page">Orders</a>' in shown
        assert "<p>7: 120 &lt;7&gt;</p>" in shown
        assert client.get("/dev/outbox").status_code == 404


def test_health_is_shown_while_a_provider_does_not_answer(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_doctor", health._Doctor())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        shown = page.get("/dev/health").text
        assert "Checking ..." in shown
        assert "events per second" in shown
        asked, _ = silent.accept()
        asked.close()
    assert wait_until(
        lambda: (
            "Checking ..." not in (found := page.get("/dev/health").text) and "migrations" in found
        )
    )


def test_a_very_long_value_is_truncated_and_marked(page: TestClient) -> None:
    [event_id] = send("nobody/waits", {"text": "x" * 200_000})
    shown = page.get(f"/dev/events/{event_id}").text
    assert len(shown) < 80_000
    assert "characters more" in shown
