"""Every screen is reachable on a phone, and nothing of a table is beside a small screen."""

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from app.models import Scope
from app.web.rendering import SCREENS
from app.web.text import model_page
from tests.browser.scene import scene
from tests.browser.visit import Visits
from tests.support.api import Api, Tenant, jsonl

PHONE: ViewportSize = {"width": 390, "height": 844}
TABLET: ViewportSize = {"width": 1024, "height": 768}
OPEN = "for (const part of document.querySelectorAll('main details')) part.open = true"


@pytest.fixture
def phone(api: Api, tenant: Tenant, visits: Visits) -> Page:
    return visits.sign_in(api.url, tenant.new_key(Scope.ADMIN), viewport=PHONE)


def test_a_menu_leads_to_every_screen_and_says_which_one_this_is(phone: Page) -> None:
    menu = phone.get_by_role("button", name="Screens, now at")
    screens = phone.get_by_role("navigation", name="Screens")
    for screen in SCREENS:
        expect(screens).not_to_be_visible()
        menu.click()
        link = screens.get_by_role("link", name=screen.label, exact=True)
        expect(link).to_be_in_viewport(ratio=1)
        link.click()
        phone.wait_for_url(f"**{screen.path}")
        expect(menu).to_have_text(f"☰ Screens, now at {screen.label}")
        expect(phone.locator("#screens [aria-current=page]")).to_have_text([screen.label])
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.set_viewport_size(TABLET)
    expect(menu).not_to_be_visible()
    for screen in SCREENS:
        link = screens.get_by_role("link", name=screen.label, exact=True)
        expect(link).to_be_in_viewport(ratio=1)


def test_tables_and_commands_are_read_without_scrolling_sideways(
    phone: Page, tenant: Tenant
) -> None:
    project = scene(tenant)
    name = f"{'a-long-name-' * 6}.jsonl"
    tenant.client.files.create(file=(name, jsonl()), purpose="fine-tune")
    paths = [f"/data/{project.bad_file}", "/workers", f"/data/{project.file}", "/data", "/activity"]
    paths += [f"/jobs/{project.succeeded}", model_page(project.model)]
    for path in paths:
        phone.goto(path)
        phone.evaluate(OPEN)
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for part in phone.locator("main :is(.scroll:has(table), pre, .answers):visible").all():
            assert part.evaluate("it => it.scrollWidth - it.clientWidth") == 0, path
    phone.set_viewport_size(TABLET)
    for path in ("/workers", "/data", f"/jobs/{project.succeeded}"):
        phone.goto(path)
        lines = phone.locator("main td time").evaluate_all(
            "all => all.map(time => time.getClientRects().length)"
        )
        assert set(lines) <= {1}, path
    phone.goto("/workers")
    jobs = phone.locator(".cards .job").evaluate_all("all => all.map(cell => cell.clientWidth)")
    assert min(jobs) > 120
