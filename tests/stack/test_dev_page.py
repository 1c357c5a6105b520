"""The dev page in a browser: content, actions, live updates, layout, accessibility, escaping."""

import json
import re
from pathlib import Path

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from demo import sample_media
from resources.email.mailer import Mail, OutboxMailer
from runyard import send
from runyard.dagster_adapter.links import to_event
from runyard.settings import settings
from runyard.store import database
from tests.conftest import event, settled, wait_until
from tests.stack.conftest import address

pytestmark = pytest.mark.usefixtures("stack")

ATTACK = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "'\"{{7*7}}javascript:document.title='owned'"
)

_ALL_IMAGES_LOADED = "[...document.images].every((image) => image.complete)"


def state(page: Page) -> str:
    """The status of the invocation on the page."""
    return page.locator(".state .tag").inner_text()


def open_invocation(page: Page, event_id: str, function: str) -> int:
    """Open the page of an event's invocation; return its id."""
    wait_until(lambda: event(event_id)["invocations"])
    [found] = [one["id"] for one in event(event_id)["invocations"] if one["function"] == function]
    page.goto(address(f"/dev/invocations/{found}"))
    return int(found)


def test_an_event_is_sent_by_its_form_and_seen_to_its_end(page: Page) -> None:
    page.goto(address("/dev"))
    page.get_by_role("link", name="Send", exact=True).click()
    page.get_by_role("link", name="email/send.requested").click()
    expect(page.get_by_label("template")).to_have_value("welcome")
    to = page.get_by_label("to (required) one per line")
    to.fill("nobody")
    expect(page.locator("[id='error-data.to']")).to_contain_text("is not an e-mail address")
    expect(to).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#snippets")).to_contain_text("once it is valid")
    to.fill("grace@example.com")
    expect(page.locator("[id='error-data.to']")).to_be_empty()
    expect(page.locator("#snippets pre").first).to_contain_text("grace@example.com")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_role("heading", name="email/send.requested")).to_be_visible()
    expect(page.locator(".invocations .tag")).to_have_text("succeeded")
    page.get_by_role("link", name="send_email").click()
    assert state(page) == "succeeded"
    expect(page.locator(".timeline .step").first).to_have_text("prepare-email")
    expect(page.get_by_role("link", name="Open in Dagster")).to_have_attribute(
        "href", re.compile("^/runs/")
    )


def test_several_events_are_sent_at_once(page: Page) -> None:
    page.goto(address("/dev/send"))
    page.get_by_role("link", name="send several events").click()
    page.get_by_label("Events").fill('{"name": "nobody/waits"}\n{"name": "nobody/waits"}')
    page.get_by_role("button", name="Send all").click()
    expect(page.get_by_role("heading", name="2 events were sent")).to_be_visible()
    page.locator(".sent a").last.click()
    expect(page.get_by_role("heading", name="nobody/waits")).to_be_visible()


def test_a_picture_is_uploaded_and_its_variants_made(page: Page, tmp_path: Path) -> None:
    picture = tmp_path / "my photo.jpg"
    picture.write_bytes(sample_media.jpeg(sample_media.photo(400, 300)))
    page.goto(address("/dev/send?name=media/image.uploaded"))
    page.get_by_label("Upload a file").set_input_files(picture)
    expect(page.locator(".upload output")).to_have_text("Uploaded my photo.jpg.")
    expect(page.locator("[id='data.source']")).to_have_value(re.compile("dev-page/.*-my-photo.jpg"))
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".invocations .tag")).to_have_text("succeeded", timeout=60_000)
    page.goto(address("/dev/media"))
    expect(page.get_by_role("link", name="my-photo.jpg")).to_be_visible()


def test_a_request_is_tried_in_the_description_of_the_api(page: Page) -> None:
    page.goto(address("/docs"))
    page.locator("summary", has_text="/e/{key}").click()
    form = page.get_by_role("form", name="Try POST /e/{key}")
    form.get_by_label("Body").fill('{"name": "nobody/waits"}')
    form.get_by_role("button", name="Send the request").click()
    expect(form.get_by_role("status")).to_contain_text("200 after")
    [sent] = json.loads(form.locator("pre").inner_text())["ids"]
    page.goto(address(to_event(sent)))
    expect(page.get_by_role("heading", name="nobody/waits")).to_be_visible()


def test_a_telephone_has_a_row_with_a_button_for_the_menu(browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(address("/dev"))
    link = page.get_by_role("link", name="Functions", exact=True)
    expect(link).to_be_hidden()
    assert page.locator("header").evaluate("header => header.offsetHeight") < 60
    page.get_by_role("button", name="Menu").press("Enter")
    expect(link).to_be_visible()
    sizes = page.locator("header a, header button").evaluate_all(
        "all => all.map(one => one.offsetHeight)"
    )
    assert min(sizes) >= 40
    page.keyboard.press("Escape")
    expect(link).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    link.click()
    expect(page.get_by_role("heading", name="Functions")).to_be_visible()
    page.close()


def test_a_form_that_is_sent_wrong_keeps_what_was_typed(page: Page) -> None:
    page.goto(address("/dev/send?name=email/send.requested"))
    page.get_by_label("subject").fill("My subject")
    page.get_by_label("attachments").fill("{not json")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#problems")).to_contain_text("to fix")
    expect(page.locator("[id='error-data.attachments']")).to_contain_text("this is not JSON")
    expect(page.get_by_label("subject")).to_have_value("My subject")


def test_a_failure_is_seen_with_its_error_and_replayed_to_its_end(
    page: Page, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    page.goto(address("/dev/send?name=test/steps"))
    page.get_by_label("Data").fill(f'{{"n": 3, "final": true, "unless": "{mended}"}}')
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator(".invocations .tag")).to_have_text("failed")
    expect(page.locator(".invocations")).to_contain_text("this can never work")
    page.get_by_role("link", name="steps", exact=True).click()
    expect(page.locator(".failure").first).to_contain_text(
        "NonRetriable: this can never work at second"
    )
    expect(page.locator(".failure pre").first).to_contain_text("Traceback")
    failed = page.url
    mended.touch()
    page.get_by_role("button", name="Replay, keeping completed steps").click()
    expect(page.locator(".state .tag")).to_have_text("succeeded")
    assert page.url != failed
    expect(page.locator(".timeline")).to_contain_text("Reused from the invocation that it replays")
    page.goto(failed)
    expect(page.locator(".facts")).to_contain_text("Replayed as")
    page.get_by_role("button", name="Replay from the start").click()
    expect(page.locator(".state .tag")).to_have_text("succeeded")
    expect(page.locator(".timeline")).not_to_contain_text("Reused from")


def test_another_attempt_is_waited_for_and_made_now(page: Page) -> None:
    open_invocation(page, send("test/steps", {"after": 3600})[0], "steps")
    expect(page.locator(".held")).to_contain_text(
        "waiting: attempt 2 of the failed step, in 59 min."
    )
    expect(page.locator(".timeline")).to_contain_text("RetryAfter: come back later")
    page.get_by_role("button", name="Retry now").click()
    expect(page.locator(".state .tag")).to_have_text("succeeded")
    runs = page.locator(".timeline .run h3")
    expect(runs).to_have_count(2)
    expect(runs.first).to_contain_text("retried")


def test_a_sleep_is_woken(page: Page) -> None:
    [event_id] = send("test/napping", {"nap": 3600})
    open_invocation(page, event_id, "napping")
    expect(page.locator(".held")).to_contain_text("sleeping at nap, in 59 min.")
    page.get_by_role("button", name="Run now").click()
    expect(page.locator(".state .tag")).to_have_text("succeeded")
    expect(page.locator(".timeline")).to_contain_text("Slept")


def test_the_end_of_what_a_step_writes_is_seen_as_it_is_written(page: Page, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    [event_id] = send("test/steps", {"gate": str(gate), "writes": "Queues hold the rain\n" * 100})
    open_invocation(page, event_id, "steps")
    text = page.get_by_role("log", name="What second writes")
    expect(text).to_contain_text("Queues hold the rain")
    at_end = "text => text.scrollTop + text.clientHeight >= text.scrollHeight - 1"
    assert wait_until(lambda: text.evaluate(at_end))
    gate.touch()
    expect(page.locator(".state .tag")).to_have_text("succeeded")
    expect(text).to_have_count(0)


def test_progress_is_seen_as_it_happens_and_what_runs_is_cancelled(
    page: Page, tmp_path: Path
) -> None:
    [event_id] = send("test/steps", {"gate": str(tmp_path / "never"), "says": "half way"})
    open_invocation(page, event_id, "steps")
    expect(page.locator(".state .tag")).to_have_text("running")
    expect(page.locator(".progress label")).to_have_text("second: half way (50 %)")
    page.goto(address("/dev/health"))
    expect(page.locator(".workers")).to_contain_text("steps: 1 invocation, since")
    page.go_back()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".held")).to_contain_text("is being cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    # Its worker learns of it with a heartbeat, and interrupts the step, which waits for ever.
    expect(page.locator(".state .tag")).to_have_text("cancelled", timeout=30_000)
    assert settled(event_id)["status"] == "cancelled"


def test_what_flow_control_holds_says_why(page: Page) -> None:
    *_, last = (send("test/narrow", {"tenant": 7})[0] for _ in range(12))
    open_invocation(page, last, "one_by_one")
    expect(page.locator(".held")).to_contain_text("waiting: 1 of 1 running for tenant 7")
    settled(last, 60)
    expect(page.locator(".state .tag")).to_have_text("succeeded")


def test_a_function_is_paused_and_resumed_with_the_keyboard(page: Page) -> None:
    page.goto(address("/dev/functions/steps"))
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".state")).to_contain_text("its invocations stay queued")
    [event_id] = send("test/steps", {"n": 1})
    open_invocation(page, event_id, "steps")
    expect(page.locator(".held")).to_contain_text("waiting: its function is paused")
    page.get_by_role("button", name="Resume the function").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="steps")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert settled(event_id)["status"] == "succeeded"


def test_the_keyboard_skips_to_the_content_and_reaches_every_link(page: Page) -> None:
    page.goto(address("/dev"))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()


def test_the_list_is_live_and_leaves_what_is_being_done_alone(page: Page) -> None:
    page.goto(address("/dev?name=live/list"))
    expect(page.locator("main")).to_contain_text("No event matches")
    page.get_by_label("Id", exact=True).fill("being typed")
    [event_id] = send("live/list", {})
    expect(page.locator(f"#event-{event_id}")).to_be_visible()
    expect(page.get_by_label("Id", exact=True)).to_have_value("being typed")
    expect(page.get_by_label("Id", exact=True)).to_be_focused()


def test_what_was_opened_stays_open_when_the_page_changes(page: Page, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    [event_id] = send("test/steps", {"gate": str(gate)})
    open_invocation(page, event_id, "steps")
    name = page.locator(".step", has_text="first")
    first = page.locator(".steps > li > details", has=name)
    name.click()
    expect(first.locator("pre")).to_be_visible()
    gate.touch()
    expect(page.locator(".state .tag")).to_have_text("succeeded")
    expect(first.locator("pre")).to_be_visible()


def test_a_page_says_when_it_is_no_longer_fresh_and_goes_on_after_the_web_process_was_killed(
    page: Page,
) -> None:
    page.goto(address("/dev?name=came/back"))
    expect(page.locator("main")).to_contain_text("No event matches")
    [web] = [
        found
        for found in psutil.process_iter(["cmdline"])
        if (found.info["cmdline"] or [])[-3:] == ["-m", "runyard", "web"] and _is_ours(found)
    ]
    web.kill()
    expect(page.locator("#live")).to_have_attribute("data-away", "")
    [event_id] = send("came/back", {})
    expect(page.locator(f"#event-{event_id}")).to_be_visible(timeout=30_000)
    expect(page.locator("#live")).not_to_have_attribute("data-away", "")


def _is_ours(process: psutil.Process) -> bool:
    """Whether a process belongs to the stack of these tests."""
    return process.environ().get("RUNYARD_PORT") == str(settings().port)


def test_code_is_copied(browser: Browser) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(address("/dev/send?name=a/b&mode=json"))
    page.get_by_role("button", name="Copy the curl code").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").startswith("curl http://")
    context.close()


def test_every_payload_stays_text(page: Page) -> None:
    with database.connection() as connection:
        connection.execute(
            b"INSERT INTO app.content (id, event_id, topic, kind, language, status, outline, text,"
            b" provider, model, offline, prompt_versions, usage, remarks)"
            b" VALUES (%(x)s, %(x)s, %(x)s, %(x)s, %(x)s, 'complete', '[]', %(x)s,"
            b" %(x)s, %(x)s, false, ARRAY[%(x)s],"
            b' \'{"prompt_tokens": 1, "output_tokens": 1, "cost": null}\', ARRAY[%(x)s])',
            {"x": ATTACK},
        )
        connection.execute(
            b"INSERT INTO app.email_messages (id, event_id, recipients, subject, template,"
            b" provider, provider_message_id, status, error)"
            b" VALUES ('zz-attack', %(x)s, ARRAY[%(x)s], %(x)s, %(x)s,"
            b" %(x)s, %(x)s, 'failed', %(x)s)",
            {"x": ATTACK},
        )
        connection.execute(
            b"INSERT INTO app.media (id, event_id, kind, source, original, bytes, variant_bytes,"
            b" width, height, placeholder, colour, manifest)"
            b" VALUES ('zz-attack', %(x)s, 'image', %(x)s, %(x)s, 1, 1,"
            b" 1, 1, %(x)s, %(x)s, '{\"variants\": []}')",
            {"x": ATTACK},
        )
    [unmatched] = send(ATTACK, {ATTACK: ATTACK}, id=ATTACK)
    [sent] = send("test/steps", {"says": ATTACK, "final": True, "n": ATTACK})
    [ends_well] = send("test/steps", {"says": ATTACK, ATTACK: 1})
    failed, done = settled(sent)["id"], settled(ends_well)["id"]
    escaped = page.evaluate("text => encodeURIComponent(text)", ATTACK)
    paths = [
        "/dev",
        f"/dev/events/{unmatched}",
        f"/dev/events/{sent}",
        f"/dev/invocations/{failed}",
        f"/dev/invocations/{done}",
        "/dev/functions/steps",
        "/dev/content",
        f"/dev/content/{escaped}",
        "/dev/outbox",
        "/dev/outbox/zz-attack",
        "/dev/media",
        "/dev/media/zz-attack",
        f"/dev/send?name={escaped}",
        f"/dev/send?event={unmatched}",
        *(
            f"/dev?{field}={escaped}"
            for field in ("name", "id", "status", "since", "until", "path", "before")
        ),
        f"/dev/functions/{escaped}",
        f"/dev/{escaped}",
    ]
    for path in paths:
        page.goto(address(path))
        # Not `wait_for_function`, whose later looks are an `eval` that the page's policy forbids.
        wait_until(lambda: page.evaluate(_ALL_IMAGES_LOADED))
        found = page.evaluate(
            "({ title: document.title, planted: document.querySelectorAll("
            "\"main script, main img[src='x'], [onerror]\").length })"
        )
        assert "owned" not in found["title"].replace(ATTACK, ""), path
        assert found["planted"] == 0, path
        assert page.title() != "owned", path
    assert "49" not in page.inner_text("main")


def test_a_mail_is_shown_in_a_frame_where_nothing_runs(browser: Browser) -> None:
    with database.connection() as connection:
        connection.execute(
            b"INSERT INTO app.email_messages (id, event_id, recipients, subject, provider, status)"
            b" VALUES ('zz-mail', 'x', ARRAY['ada@example.com'], 'Framed', 'outbox', 'sent')"
        )
    html = f"""<h1>Framed</h1><script>top.document.title='owned'</script>
        <img src='{address("/dev/static/icon.svg?spy")}'>
        <form action='{address("/dev/functions/steps/pause")}' method='post'>
        <button>go</button></form>"""
    attachment = {"filename": ATTACK.replace('"', ""), "content": "aGVsbG8=", "type": "text/html"}
    mail = Mail(
        id="zz-mail",
        to=["ada@example.com"],
        subject="Framed",
        text="plain words",
        html=html,
        attachments=[attachment],
    )
    OutboxMailer().send(mail)
    page = browser.new_page()
    loaded: list[str] = []
    page.on("requestfinished", lambda request: loaded.append(request.url))
    page.goto(address("/dev/outbox/zz-mail"))
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Framed")).to_be_visible()
    expect(page.locator("main")).to_contain_text("plain words")
    assert page.locator("iframe").get_attribute("sandbox") == ""
    frame.get_by_role("button", name="go").click()
    # Requests that the frame had made before would be here by then.
    with page.expect_request_finished(lambda request: "afterwards" in request.url):
        page.evaluate("fetch('/dev/static/icon.svg?afterwards').then(() => null)")
    assert page.title() == "Framed · Runyard"
    assert not any("spy" in url or "pause" in url for url in loaded)
    with page.expect_download() as download:
        page.get_by_role("link", name="owned").click()
    assert Path(download.value.path()).read_bytes() == b"hello"
    page.close()


def test_a_run_in_dagsters_ui_leads_back_to_its_event(page: Page) -> None:
    [event_id] = send("test/steps", {"n": 1})
    run_id = settled(event_id)["run_id"]
    page.goto(address(f"/runs/{run_id}?logs=step%3Areceive"))
    page.locator(f"a[href='/dev/events/{event_id}']").first.wait_for(timeout=30_000)
    page.goto(address("/dev/functions/steps"))
    page.get_by_role("link", name="Open in Dagster").click()
    page.get_by_text("settle").first.wait_for(timeout=30_000)


@pytest.fixture(scope="module")
def shown(stack: object) -> list[str]:
    """The paths of every kind of page, with long and odd content."""
    [failed] = send("test/steps", {"n": 1, "final": True, "long": "x" * 300, "says": "y" * 300})
    [mail] = send(
        "email/send.requested",
        {"to": ["ada@example.com"], "template": "welcome", "data": {"name": "Ada"}},
    )
    [nested] = send("test/calling", {"n": 2})
    [long_name] = send("a/very/long/name." + "z" * 200, {"k" * 200: ["v" * 300]})
    invocations = [settled(one)["id"] for one in (failed, nested)]
    message = wait_until(lambda: settled(mail) and _first_id("email_messages", mail))
    return [
        "/dev",
        "/dev?status=failed&path=data.final",
        *map(to_event, (failed, nested, long_name)),
        *(f"/dev/invocations/{one}" for one in invocations),
        "/dev/functions",
        "/dev/functions/steps",
        "/dev/send",
        "/dev/send/several",
        "/dev/send?name=email/send.requested",
        "/dev/send?name=media/image.uploaded",
        "/dev/send?name=content/generate.requested&mode=json",
        "/dev/outbox",
        f"/dev/outbox/{message}",
        "/dev/content",
        "/dev/media",
        "/dev/health",
        "/dev/nothing",
        "/docs",
    ]


def _first_id(table: str, event_id: str) -> str | None:
    with database.connection() as connection:
        row = connection.execute(
            f"SELECT id FROM app.{table} WHERE event_id = %s".encode(), (event_id,)
        ).fetchone()
    return str(row["id"]) if row is not None else None


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits(browser: Browser, shown: list[str], width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    for path in shown:
        page.goto(address(path))
        page.evaluate(
            "for (const details of document.querySelectorAll('details')) details.open = true"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser: Browser, shown: list[str], scheme: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    for path in shown:
        page.goto(address(path))
        page.evaluate(
            "for (const details of document.querySelectorAll('details')) details.open = true"
        )
        found = [
            one
            for one in Axe().run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert found == [], (
            path,
            [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found],
        )
    page.close()
