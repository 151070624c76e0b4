"""The list of batches."""

import httpx
from sqlalchemy import update

from app.models import Batch
from tests.contract.access_objects import a_batch
from tests.support.api import Tenant
from tests.support.pages import SAME_SITE, token


def test_batches_are_listed_with_their_counts_and_can_be_cancelled(
    browser: httpx.Client, tenant: Tenant
) -> None:
    assert "falqon batches create" in browser.get("/batches").text
    batch_id = a_batch(tenant)["batch_id"]
    with tenant.api.database.transaction() as session:
        counts = {"num_lines": 1234, "num_completed": 1000, "num_failed": 7, "model_id": "<m>"}
        counts |= {"in_progress_at": Batch.created_at}
        session.execute(update(Batch).where(Batch.id == batch_id).values(**counts))
    page = browser.get("/batches")
    for words in (
        batch_id[-8:],
        "in progress",
        "1\N{NARROW NO-BREAK SPACE}000",
        "1\N{NARROW NO-BREAK SPACE}234",
        "&lt;m&gt;",
        "/batches/live",
    ):
        assert words in page.text
    cancel = f"/batches/{batch_id}/cancel"
    assert cancel in page.text
    with browser.stream("GET", "/batches/live") as stream:
        lines = stream.iter_lines()
        assert any("in progress" in line for line in lines)
        browser.post(cancel, data={"csrf": token(page)}, headers=SAME_SITE)
        assert any("cancelling" in line for line in lines)
    assert 'href="/batches"' in browser.get("/data").text
