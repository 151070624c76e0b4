"""Sign-in through an identity provider, as a browser does it: across two sites and back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.models import DEFAULT_PROJECT_ID, Scope
from tests.browser.visit import Visits
from tests.support.api import Api, Tenant
from tests.support.identity_provider import IdentityProvider, serving_identities


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with serving_identities() as provider:
        yield provider


@pytest.fixture
def api(tmp_path: Path, provider: IdentityProvider) -> Iterator[Api]:
    database = f"sqlite:///{tmp_path / 'falqon.db'}"
    api = Api(database, tmp_path, webhook_networks=["127.0.0.0/8"], **provider.settings)
    yield api
    api.stop()


def test_a_group_is_given_a_project_its_member_signs_in_and_is_removed(
    visits: Visits, api: Api, provider: IdentityProvider
) -> None:
    team, root = Tenant(api), Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    settings = visits.sign_in(api.url, root.key)
    settings.goto("/settings")
    settings.get_by_role("link", name="People").click()
    settings.get_by_label("Group, as the identity provider names it").fill("ml")
    settings.get_by_label("Project", exact=True).select_option(team.project_id)
    settings.get_by_role("button", name="Set the scope").click()
    expect(settings.get_by_role("row", name="ml")).to_contain_text("write")

    provider.be("ada", "ml")
    page = visits.page(base_url=api.url)
    page.goto("/models")
    page.get_by_role("link", name="Sign in with Acme").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Models")

    settings.reload()
    row = settings.get_by_role("row", name="ada@example.com")
    row.get_by_role("button", name="Remove").click()
    settings.get_by_role("dialog").get_by_role("button", name="Remove the person").click()
    expect(row).to_contain_text("removed")
    page.goto("/models")
    expect(page).to_have_url(re.compile("/sign-in"))
    page.get_by_role("link", name="Sign in with Acme").click()
    expect(page.get_by_role("alert")).to_contain_text("was removed")
    for tenant in (team, root):
        tenant.http.close()


def test_a_session_that_ends_goes_on_through_the_provider(
    visits: Visits, api: Api, provider: IdentityProvider
) -> None:
    root = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    grant = {"group": "ml", "project_id": DEFAULT_PROJECT_ID, "scope": "admin"}
    root.http.post("/v1/organization/group_grants", json=grant).raise_for_status()
    provider.be("ada", "ml")
    page = visits.page(base_url=api.url)
    page.goto("/settings/webhooks")
    page.get_by_role("link", name="Sign in with Acme").click()
    page.get_by_label("Endpoint URL").fill("http://127.0.0.1:9/kept")
    page.context.clear_cookies()
    page.get_by_role("button", name="Create endpoint").click()
    dialog = page.get_by_role("dialog", name="Your session has ended")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not signed in yet")
    with page.context.expect_page() as opened:
        dialog.get_by_role("link", name="Sign in with Acme").click()
    expect(opened.value.get_by_role("heading", level=1)).to_be_visible()
    dialog.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Copy the signing secret now")).to_be_visible()
    root.http.close()
