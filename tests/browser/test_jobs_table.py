"""What the table of jobs does by script: what is chosen stays, and keys move through it."""

import re

from playwright.sync_api import Page, expect

from tests.browser.scene import Scene, scene
from tests.browser.visit import Visits
from tests.support.api import Tenant

WIDTHS = (1440, 1024, 390)


def focused_row(page: Page) -> str:
    return str(page.evaluate("document.activeElement.closest('tr')?.id ?? ''"))


def at(tenant: Tenant, visits: Visits, **options: object) -> tuple[Page, Scene]:
    ids = scene(tenant)
    return visits.sign_in(tenant.api.url, tenant.key, **options), ids


def test_selected_jobs_stay_selected_while_jobs_change(visits: Visits, tenant: Tenant) -> None:
    page, ids = at(tenant, visits)
    actions = page.get_by_role("form", name="Chosen jobs")
    expect(actions).to_be_hidden()
    page.get_by_label("Choose sql-writer").check()
    page.get_by_label("Choose support-desk").check()
    expect(page.locator("#num-chosen")).to_have_text("2 chosen")
    tenant.client.fine_tuning.jobs.cancel(ids.running)
    expect(page.locator(f"#row-{ids.running} .status")).to_have_text("cancelling")
    tenant.client.fine_tuning.jobs.cancel(tenant.job().id)  # the whole table is sent again
    expect(page.get_by_role("navigation", name="Jobs by status")).to_contain_text("1 cancelled")
    expect(page.locator("#num-chosen")).to_have_text("2 chosen")
    page.get_by_label("Choose all jobs on this page").check()
    expect(page.locator("#num-chosen")).to_have_text("5 chosen")
    actions.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the jobs").click()
    expect(page.get_by_role("status").filter(has_text="jobs are deleted")).to_contain_text("3 jobs")
    expect(page.locator(f"#row-{ids.succeeded}")).to_have_count(0)


def test_keys_move_through_the_rows_and_say_what_they_do(visits: Visits, tenant: Tenant) -> None:
    page, ids = at(tenant, visits)
    page.keyboard.press("j")
    assert focused_row(page) == f"row-{ids.running}"
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("#num-chosen")).to_have_text("1 chosen")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(ids.running))
    page.goto("/")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox").first).to_be_focused()
    page.keyboard.type("njk?")
    expect(page.get_by_role("searchbox").first).to_have_value("njk?")
    page.get_by_role("searchbox").first.blur()
    page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keyboard shortcuts")
    help_.get_by_label("Keyboard shortcuts on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.reload()
    page.keyboard.press("n")
    expect(page).to_have_url(f"{tenant.api.url}/")
    page.get_by_role("button", name="Project ").click()
    page.get_by_role("button", name="Keyboard shortcuts").click()
    help_.get_by_label("Keyboard shortcuts on").check()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile("/jobs/new"))


def test_escape_closes_a_menu_and_leads_back_to_its_button(visits: Visits, tenant: Tenant) -> None:
    page, _ = at(tenant, visits, viewport={"width": 390, "height": 500})
    for name, label, last in (("Filter", "Base model", "Show"), ("Columns", "Status", "Apply")):
        button = page.get_by_role("button", name=name, exact=True)
        button.press("Enter")
        field = page.get_by_label(label, exact=True)
        page.keyboard.press("Tab")
        expect(field).to_be_focused()
        page.get_by_role("button", name=last).scroll_into_view_if_needed()
        expect(page.get_by_role("button", name=last)).to_be_in_viewport()
        page.keyboard.press("Escape")
        expect(field).to_be_hidden()
        expect(button).to_be_focused()
    page.get_by_role("button", name="Columns").click()
    page.get_by_label("Rank", exact=True).check()
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile("columns=.*rank"))


def test_nothing_of_the_table_is_cut_or_lies_over_anything(visits: Visits, tenant: Tenant) -> None:
    page, _ = at(tenant, visits)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        overlaps = page.evaluate(
            """() => [...document.querySelectorAll('.jobs tr')].flatMap(row => {
              const cells = [...row.children].map(cell => cell.getBoundingClientRect())
                .filter(box => box.width && box.height);
              return cells.flatMap((a, i) => cells.slice(i + 1).filter(b =>
                Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
                Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1));
            }).length"""
        )
        assert overlaps == 0, width
    page.set_viewport_size({"width": 1024, "height": 768})
    expect(page.get_by_role("columnheader", name="Speed")).to_be_hidden()
    expect(page.get_by_role("columnheader", name="Training loss")).to_be_visible()


def test_a_checkbox_stands_at_the_middle_of_its_text(visits: Visits, tenant: Tenant) -> None:
    page, _ = at(tenant, visits)
    label = page.locator("label[data-notify]")
    box, around = label.locator("input").bounding_box(), label.bounding_box()
    assert box is not None
    assert around is not None
    middle = box["y"] + box["height"] / 2
    assert abs(middle - around["y"] - around["height"] / 2) < 1
