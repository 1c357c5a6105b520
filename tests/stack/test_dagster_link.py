"""The Dagster UI leads to the dev page, and works as it does without the link."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.stack.conftest import address

pytestmark = pytest.mark.usefixtures("stack")


@pytest.mark.parametrize("path", ["/", "/runs", "/locations/tests.code/jobs/steps"])
def test_every_page_of_the_dagster_ui_leads_to_the_dev_page(page: Page, path: str) -> None:
    page.goto(address(path))
    expect(page.get_by_role("link", name="Jobs").first).to_be_visible()
    page.locator("a#runyard").click()
    expect(page).to_have_url(address("/dev"))


def test_a_deep_link_shows_its_own_page(page: Page) -> None:
    page.goto(address("/locations/tests.code/jobs/steps"))
    expect(page.get_by_text("receive", exact=True).first).to_be_visible()


def test_the_link_covers_nothing_of_the_navigation(page: Page) -> None:
    page.goto(address("/"))
    entry = page.get_by_role("link", name="Runs").first
    expect(entry).to_be_visible()
    icon, link = entry.locator("svg, [role=img]").first.bounding_box(), None
    link = page.locator("a#runyard").bounding_box()
    assert icon is not None
    assert link is not None
    assert link["x"] + link["width"] <= icon["x"]


def test_the_page_keeps_its_policy_with_the_nonce_of_its_scripts() -> None:
    response = httpx.get(address("/"))
    nonces = re.findall(r"'nonce-(\w+)'", response.headers["content-security-policy"])
    assert len(nonces) == 1
    assert set(re.findall(r'nonce="(\w+)"', response.text)) == set(nonces)


def test_the_length_of_the_page_is_that_of_its_body_with_the_link() -> None:
    got, head = httpx.get(address("/runs")), httpx.head(address("/runs"))
    assert int(got.headers["content-length"]) == len(got.content)
    assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("path", ["/server_info", "/favicon.svg", "/docs"])
def test_what_is_no_page_of_the_dagster_ui_is_left_as_it_is(path: str) -> None:
    response = httpx.get(address(path))
    assert response.status_code == 200
    assert 'id="runyard"' not in response.text
