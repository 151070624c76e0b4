"""Models and settings as people use them: by what is written on the page."""

import re

import httpx
from playwright.sync_api import expect
from sqlalchemy import update

from app.models import Export, OperationStatus, Scope
from app.web.text import model_page
from tests.browser import scene
from tests.browser.visit import Visits
from tests.support.api import Tenant
from tests.support.hostile import PAYLOADS
from tests.support.receiver import receiving


def is_accepted(tenant: Tenant, key: str) -> bool:
    return (
        httpx.get(
            f"{tenant.api.url}/v1/models", headers={"authorization": f"Bearer {key}"}, verify=False
        ).status_code
        == 200
    )


def model_of(tenant: Tenant) -> str:
    job_id = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    return scene.a_model(tenant, job_id)


def test_a_key_is_made_seen_once_and_revoked(visits: Visits, tenant: Tenant) -> None:
    page = visits.sign_in(tenant.api.url, tenant.new_key(Scope.ADMIN))
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("link", name="Keys").click()
    page.get_by_label("Name, such as").fill("nightly")
    page.get_by_label("Scope").select_option("read")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_text("it is shown only once")).to_be_visible()
    secret = page.get_by_text(re.compile(r"^ft_live_")).inner_text()
    assert is_accepted(tenant, secret)
    page.get_by_role("link", name="Done").click()
    row = page.get_by_role("row", name="nightly")
    expect(row).to_contain_text("read")
    assert secret not in page.content()
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_role("status").filter(has_text="It no longer works")).to_be_visible()
    expect(row).to_have_count(0)
    assert not is_accepted(tenant, secret)


def test_an_export_is_asked_for_and_comes_by_itself(visits: Visits, tenant: Tenant) -> None:
    model = model_of(tenant)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(model_page(model))
    page.get_by_role("button", name="Make bf16").click()
    forms = page.get_by_role("region", name="Other formats")
    expect(forms.get_by_text("in progress")).to_be_visible()
    tenant.add_model(f"{model}:bf16", project_id=tenant.project_id, base=tenant.base_model)
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Export)
            .where(Export.project_id == tenant.project_id)
            .values(status=OperationStatus.COMPLETED)
        )
    expect(forms.get_by_text("ready")).to_be_visible()
    forms.get_by_role("link", name="Files").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{model}:bf16")


def test_the_deliveries_of_a_webhook_come_by_themselves_and_are_sent_again(
    visits: Visits, tenant: Tenant
) -> None:
    page = visits.sign_in(tenant.api.url, tenant.key)
    with receiving() as receiver:
        receiver.answers[0] = 500
        page.goto("/settings/webhooks")
        page.get_by_label("Endpoint URL").fill(receiver.url)
        page.get_by_role("button", name="Create endpoint").click()
        expect(page.get_by_text(re.compile("^whsec_"))).to_be_visible()
        page.get_by_role("link", name="Done").click()
        deliveries = page.get_by_role("region", name="Deliveries").first
        expect(deliveries).to_contain_text("No deliveries yet")
        tenant.client.fine_tuning.jobs.cancel(tenant.job().id)
        expect(deliveries).to_contain_text("the endpoint answered 500")
        receiver.answers[0] = 204
        deliveries.get_by_role("button", name="Send again").click()
        expect(
            page.get_by_role("status").filter(has_text="Event queued for delivery")
        ).to_be_visible()
        # The first delivery is tried again by itself meanwhile, and may have arrived as well.
        rows = deliveries.get_by_role("row")
        expect(rows).to_have_count(3)
        expect(rows.nth(1).get_by_text("delivered")).to_be_visible()


def test_a_model_is_exported_and_deleted_without_javascript(visits: Visits, tenant: Tenant) -> None:
    model = model_of(tenant)
    page = visits.sign_in_by_form(tenant.api.url, tenant.key, java_script_enabled=False)
    page.goto(model_page(model))
    page.get_by_role("button", name="Make lora").click()
    expect(
        page.get_by_role("region", name="Other formats").get_by_text("in progress")
    ).to_be_visible()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete the model").click()
    expect(page.get_by_role("status").filter(has_text="is deleted")).to_be_visible()


def test_hostile_names_are_text(visits: Visits, tenant: Tenant) -> None:
    """That none of it runs, `visits` asserts."""
    page = visits.sign_in(tenant.api.url, tenant.new_key(Scope.ADMIN))
    names = [
        payload.strip()[:100] for payload in PAYLOADS[::15] if payload.strip()[:100].isprintable()
    ]
    for name in names:
        page.goto("/settings/keys")
        page.get_by_label("Name, such as").fill(name)
        page.get_by_role("button", name="Create key").click()
        expect(page.get_by_text(name).first).to_be_visible()
    model = model_of(tenant)
    path = tenant.api.storage.local_path(f"models/{model}/certificate.json")
    assert path is not None
    path.write_text(scene.certificate(PAYLOADS[3]).model_dump_json())
    page.goto(model_page(model))
    page.get_by_text("Checks and provenance").click()
    page.get_by_text("Answers of both to the same prompt").click()
    expect(page.get_by_text(PAYLOADS[3]).first).to_be_visible()
    tenant.http.post(
        "/v1/webhook_endpoints", json={"url": "http://127.0.0.1:1/hook", "name": PAYLOADS[0]}
    )
    page.goto("/settings/webhooks")
    page.get_by_role("link", name=PAYLOADS[0]).click()
    expect(page.get_by_role("heading", name=PAYLOADS[0])).to_be_visible()
    page.goto("/settings/keys")
    for name in names:
        expect(page.get_by_text(name).first).to_be_visible()
