"""The dev page in a real browser: what it shows, that it fits, that a payload stays text."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from runyard import send
from tests.conftest import settled
from tests.stack.conftest import address

pytestmark = pytest.mark.usefixtures("stack")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, as the system has it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "these tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_events_steps_and_runs_are_shown_and_fit(browser: Browser, width: int, tmp_path: Path) -> None:
    [event_id] = send("test/steps", {"n": 1, "final": True, "long": "x" * 300})
    run_id = settled(event_id)["run_id"]
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(address(f"/dev?id={event_id}"))
    assert "this can never work" in page.inner_text("main")
    assert page.locator(f"a[href='/runs/{run_id}']").count() == 1
    page.locator("summary", has_text="data").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.screenshot(path=tmp_path / f"dev-{width}.png")
    page.close()


def test_a_payload_stays_text(browser: Browser) -> None:
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    [event_id] = send(f"attack/{attack}", {"x": attack})
    page = browser.new_page()
    page.goto(address("/dev"))
    assert page.locator("img, main script").count() == 0 and "owned" not in page.title()
    assert attack in page.inner_text("main") and event_id in page.inner_text("main")
    page.goto(address(f"/dev?name={attack.replace('=', '%3D')}"))
    assert "owned" not in page.title()
    page.close()


def test_the_run_opens_in_dagsters_ui(browser: Browser) -> None:
    run_id = settled(send("test/steps", {"n": 1})[0])["run_id"]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address(f"/runs/{run_id}"))
    page.get_by_text("settle").first.wait_for(timeout=30_000)
    page.close()
