"""A session that ends under a form that is half filled in."""

from collections.abc import Callable
from functools import partial

import pytest
from playwright.sync_api import Page, Route, expect

from app.web.text import playground
from tests.browser.visit import Visits
from tests.support.api import Tenant

ENDED = "Your session has ended"


def sign_in_over(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog", name=ENDED)
    dialog.get_by_label("API key").fill(key)
    dialog.get_by_role("button", name="Sign in").click()


def test_a_typed_form_is_sent_after_signing_in_over_the_page(
    visits: Visits, tenant: Tenant
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/new?training_file={tenant.upload()}&model={tenant.base_model}")
    page.get_by_label("Name").fill("kept")
    page.context.clear_cookies()
    dialog = page.get_by_role("dialog", name=ENDED)
    expect(dialog).to_be_visible()  # the estimate asks, as the file is not inspected yet
    sign_in_over(page, "nonsense")
    expect(dialog.get_by_role("alert")).not_to_be_empty()
    dialog.get_by_role("button", name="Cancel").click()
    toast = page.locator("#toast")
    expect(toast).to_contain_text(ENDED)
    toast.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Submit the job").click()
    sign_in_over(page, tenant.key)
    expect(page.locator("#job-title")).to_contain_text("kept")


def test_a_form_of_one_project_is_not_sent_to_another(visits: Visits, tenant: Tenant) -> None:
    other = Tenant(tenant.api)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto("/settings/webhooks")
    page.get_by_label("Endpoint URL").fill("http://127.0.0.1:9/kept")
    page.context.clear_cookies()
    page.get_by_role("button", name="Create endpoint").click()
    sign_in_over(page, other.key)
    expect(page.get_by_role("dialog", name=ENDED).get_by_role("alert")).to_contain_text(
        "this page is of another project"
    )
    assert other.http.get("/v1/webhook_endpoints").json()["data"] == []
    sign_in_over(page, tenant.key)
    expect(page.get_by_text("Copy the signing secret now")).to_be_visible()
    other.http.close()


@pytest.mark.parametrize("refuse", [Route.abort, partial(Route.fulfill, status=503)])
def test_a_form_stays_while_the_service_is_away(
    visits: Visits, tenant: Tenant, refuse: Callable[[Route], None]
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto("/settings/webhooks")
    address = page.get_by_label("Endpoint URL")
    address.fill("http://127.0.0.1:9/kept")
    page.route("**/*", lambda route: refuse(route))
    page.get_by_role("button", name="Create endpoint").click()
    toast = page.locator("#toast")
    expect(toast).to_contain_text("The service does not answer")
    expect(address).to_have_value("http://127.0.0.1:9/kept")
    page.unroute("**/*")
    toast.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Copy the signing secret now")).to_be_visible()


def test_a_conversation_goes_on_after_signing_in_over_the_page(
    visits: Visits, tenant: Tenant
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(playground(tenant.base_model))
    page.context.clear_cookies()
    page.get_by_label("Message").fill("Hello")
    page.get_by_role("button", name="Ask", exact=True).click()
    sign_in_over(page, tenant.key)
    expect(page.locator("#turns figure")).to_contain_text("the next try is in")


def test_a_download_leads_to_the_sign_in_and_on(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto("/usage")
    page.context.clear_cookies()
    page.get_by_role("link", name="CSV").click()
    page.get_by_label("API key").fill(tenant.key)
    with page.expect_download() as download:
        page.get_by_role("button", name="Sign in").click()
    assert download.value.suggested_filename.endswith(".csv")
