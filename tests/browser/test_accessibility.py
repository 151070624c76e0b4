"""Every page by axe-core, in light and dark, and by the keyboard alone."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from app.web import assets
from tests.app.web.test_evaluation_page import an_evaluation
from tests.browser.scene import Scene, scene
from tests.browser.visit import Visits
from tests.contract.access_objects import a_batch, a_study
from tests.support.api import Api, Tenant, installation_admin

AXE = (assets.PACKAGES_FOLDER / "axe-core" / "axe.min.js").read_text
SERIOUS = {"serious", "critical"}
BY_LOOKS = ("color-contrast", "target-size", "scrollable-region-focusable")
DESK: ViewportSize = {"width": 1280, "height": 720}
PHONE: ViewportSize = {"width": 390, "height": 844}
# What can be focused and is seen; a popover's content is not, before it opens.
# Tab stops at the chosen one of a group of radio buttons.
FOCUSABLE = (
    "a[href], button:not([disabled]), input:not([type=hidden], [type=radio]:not(:checked)), "
    "select, textarea, summary, [tabindex='0']"
)
# What an element that gets the focus is outlined with.
NOTE_FOCUSED = """() => {
    window.focused = [];
    addEventListener("focusin", ({target}) => {
        focused.push([getComputedStyle(target).outlineStyle, target.outerHTML]);
    });
}"""
PAGES = {
    "jobs": "/",
    "nothing found": "/?q=nowhere",
    "a running job": "/jobs/{running}",
    "a job that succeeded": "/jobs/{succeeded}",
    "an evaluation": "{evaluation}",
    "a job that failed": "/jobs/{failed}",
    "a queued job": "/jobs/{queued}",
    "comparison": "/compare?job={running}&job={succeeded}&job={failed}",
    "choice": "/compare",
    "studies": "/studies",
    "a study": "/studies/{study_id}",
    "batches": "/batches",
    "workers": "/workers",
    "usage": "/usage",
    "new job": "/jobs/new",
    "new job with a file": "/jobs/new?training_file={file}",
    "new job with a bad file": "/jobs/new?training_file={bad_file}",
    "data": "/data",
    "a file": "/data/{file}?model={base_model}",
    "a bad file": "/data/{bad_file}",
    "models": "/models",
    "no model found": "/models?q=nowhere",
    "a model": "/models/{model}",
    "the playground": "/playground?model={model}",
    "access": "/settings",
    "model names": "/settings/aliases",
    "webhooks": "/settings/webhooks",
    "a webhook": "/settings/webhooks/{webhook}",
    "search": "/search",
    "found": "/search?q=s",
    "no such job": "/jobs/ftjob-none",
}
PAGES_BY_TAB = [
    "/",
    "/jobs/{succeeded}",
    "/jobs/new",
    "/data",
    "/data/{file}",
    "/compare",
    "/workers",
    "/models/{model}",
    "/playground?model={model}",
    "/settings/webhooks",
]
ADMIN_PAGES = {
    "usage": "/usage",
    "activity": "/activity",
    "projects": "/settings",
    "a project": "/settings/projects/{project}",
    "keys": "/settings/keys",
    "prices": "/settings/prices",
    "people": "/settings/people",
    "worker tokens": "/settings/worker_tokens",
}


@pytest.fixture(scope="module")
def project(api: Api) -> Iterator[tuple[Tenant, Scene]]:
    tenant = Tenant(api)
    yield tenant, scene(tenant)
    tenant.http.close()


def faults(page: Page, *rules: str) -> list[str]:
    """Of all rules, with the size of targets, which axe leaves out by itself; or of these."""
    report: dict[str, Any] = page.evaluate(
        "rules => axe.run({resultTypes: ['violations'], preload: false, rules: {'target-size': "
        "{enabled: true}}, ...(rules.length && {runOnly: rules})})",
        rules,
    )
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in report["violations"]
        if violation["impact"] in SERIOUS or violation["id"] == "landmark-unique"
        for node in violation["nodes"]
    ]


def wait_for_charts(page: Page) -> None:
    if page.locator(".charts").count():
        page.wait_for_selector(".uplot, [data-no-curves]:not([hidden])")


def test_no_page_has_a_serious_fault_in_light_or_dark(
    visits: Visits, project: tuple[Tenant, Scene]
) -> None:
    tenant, ids = project
    page = visits.sign_in(tenant.api.url, tenant.key, reduced_motion="reduce")
    names = ids._asdict() | {"webhook": failing_webhook(tenant)} | a_study(tenant)
    names |= {"evaluation": an_evaluation(tenant, job_id=ids.succeeded)}
    an_evaluation(tenant, job_id=ids.failed)  # whose answers the comparison shows
    a_batch(tenant)
    assert faults_of(page, PAGES, **names) == {}


def test_no_admin_page_has_an_accessibility_fault(
    visits: Visits, project: tuple[Tenant, Scene]
) -> None:
    tenant, _ = project
    tenant.limit(max_live_jobs=9)
    with installation_admin(tenant.api) as http:
        page = visits.sign_in(
            tenant.api.url, http.headers["authorization"].split()[1], reduced_motion="reduce"
        )
    assert faults_of(page, ADMIN_PAGES, project=tenant.project_id) == {}
    page.goto("/settings/keys")
    page.get_by_label("Name, such as").fill("axe")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("heading", name="created")).to_be_visible()
    page.evaluate(AXE())
    assert faults(page) == []


def failing_webhook(tenant: Tenant) -> str:
    """A webhook endpoint, with a delivery that nobody took."""
    endpoint_id = str(
        tenant.http.post("/v1/webhook_endpoints", json={"url": "http://127.0.0.1:1/hook"}).json()[
            "id"
        ]
    )
    tenant.client.fine_tuning.jobs.cancel(tenant.job().id)
    return endpoint_id


def faults_of(page: Page, pages: dict[str, str], **ids: str) -> dict[str, list[str]]:
    """By page, in light on a desk and in dark on a phone; only pages that have some."""
    script = AXE()
    by_page: dict[str, list[str]] = {}
    for name, path in pages.items():
        page.goto(path.format(**ids))
        wait_for_charts(page)
        page.evaluate(script)
        by_page[name] = faults(page)
        page.set_viewport_size(PHONE)
        page.emulate_media(color_scheme="dark")
        by_page[f"{name}, dark on a phone"] = faults(page, *BY_LOOKS)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(DESK)
    return {name: lines for name, lines in by_page.items() if lines}


def test_pages_for_who_is_new_have_none_either(visits: Visits, tenant: Tenant) -> None:
    page = visits.page(base_url=tenant.api.url)
    page.goto("/sign-in")
    page.evaluate(AXE())
    assert faults(page) == []
    page = visits.sign_in_by_form(tenant.api.url, tenant.key)
    expect(page.get_by_role("heading", name="Fine-tune your first model")).to_be_visible()
    page.evaluate(AXE())
    assert faults(page) == []


def test_everything_is_reached_by_tab_and_seen(
    visits: Visits, project: tuple[Tenant, Scene]
) -> None:
    tenant, ids = project
    page = visits.sign_in(tenant.api.url, tenant.key)
    for path in PAGES_BY_TAB:
        page.goto(path.format(**ids._asdict()))
        wait_for_charts(page)
        expected = page.locator(FOCUSABLE).filter(visible=True).count()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.evaluate(NOTE_FOCUSED)
        for _ in range(expected - 1):
            page.keyboard.press("Tab")
        outlines: list[tuple[str, str]] = page.evaluate("focused")
        assert len(outlines) == expected - 1, (path, outlines)
        assert [html for outline, html in outlines if outline == "none"] == [], path
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || "
            "document.activeElement.className === 'skip'"
        ), path


def test_a_question_opens_and_closes_by_the_keyboard(
    visits: Visits, project: tuple[Tenant, Scene]
) -> None:
    tenant, ids = project
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{ids.running}")
    button = page.get_by_role("group", name="Actions").get_by_role(
        "button", name="Pause", exact=True
    )
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Pause sql-writer?")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("dialog").get_by_role("button", name="Pause")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(button).to_be_focused()
