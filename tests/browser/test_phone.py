"""Every screen is reachable on a phone, and nothing of a table is beside the screen."""

import pytest
from playwright.sync_api import Page, expect

from app.web.rendering import NAVIGATION
from tests.browser.scene import scene
from tests.browser.visit import Visits
from tests.support.api import Api, Tenant

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def phone(api: Api, tenant: Tenant, visits: Visits) -> Page:
    return visits.sign_in(api.url, tenant.key, viewport=PHONE)


def test_a_menu_leads_to_every_screen_and_says_which_one_this_is(phone: Page) -> None:
    menu = phone.get_by_role("button", name="Screens, now at")
    screens = phone.get_by_role("navigation", name="Screens")
    for screen in NAVIGATION:
        expect(screens).not_to_be_visible()
        menu.click()
        link = screens.get_by_role("link", name=screen.label, exact=True)
        expect(link).to_be_in_viewport(ratio=1)
        link.click()
        phone.wait_for_url(f"**{screen.path}")
        expect(menu).to_have_text(f"☰ Screens, now at {screen.label}")
        expect(phone.locator("#screens [aria-current=page]")).to_have_text([screen.label])
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    phone.set_viewport_size({"width": 1024, "height": 768})
    expect(menu).not_to_be_visible()
    for screen in NAVIGATION:
        link = screens.get_by_role("link", name=screen.label, exact=True)
        expect(link).to_be_in_viewport(ratio=1)


def test_bad_lines_and_workers_are_read_without_scrolling_sideways(
    phone: Page, tenant: Tenant
) -> None:
    project = scene(tenant)
    for path in (f"/data/{project.bad_file}", "/workers", f"/data/{project.file}"):
        phone.goto(path)
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for table in phone.locator("main .scroll:has(table)").all():
            assert table.evaluate("it => it.scrollWidth - it.clientWidth") == 0
