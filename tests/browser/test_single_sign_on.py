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
    api = Api(f"sqlite:///{tmp_path / 'falqon.db'}", tmp_path, **provider.settings)
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
