"""Metadata of a job that is there: its pairs change, its model's name does not."""

from typing import Any

import httpx
import pytest

from app.models import Job, JobMetadata
from app.models.job_request import MAX_METADATA_PAIRS
from tests.support.api import Tenant

pytestmark = pytest.mark.both_databases


def change(tenant: Tenant, job_id: str, **pairs: str | None) -> httpx.Response:
    return tenant.http.post(f"/v1/fine_tuning/jobs/{job_id}", json={"metadata": pairs})


def found(tenant: Tenant, **filters: Any) -> list[str]:
    return [job.id for job in tenant.client.fine_tuning.jobs.list(**filters)]


def test_pairs_are_set_and_removed_and_the_others_stay(tenant: Tenant) -> None:
    job = tenant.job(metadata={"team": "red", "title": "first"}, suffix="desk")
    changed = change(tenant, job.id, title="<second>", note="Too formal.\nAgain.", team=None)
    assert changed.json()["metadata"] == {"title": "<second>", "note": "Too formal.\nAgain."}
    assert changed.json()["suffix"] == "desk", "it is part of the model's name"
    assert found(tenant, metadata={"title": "<second>"}) == [job.id]
    assert found(tenant, metadata={"title": "first"}) == []
    assert found(tenant, metadata={"team": "red"}) == []
    assert found(tenant, metadata="null") == []
    change(tenant, job.id, title=None, note=None)
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).metadata is None
    assert found(tenant, metadata="null") == [job.id]


def test_pairs_beyond_the_limit_are_refused_and_none_is_written(tenant: Tenant) -> None:
    pairs = {str(number): "x" for number in range(MAX_METADATA_PAIRS)}
    job = tenant.job(metadata=pairs)
    refused = change(tenant, job.id, title="one more")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "metadata")
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).metadata == pairs
    replaced = change(tenant, job.id, **{"0": None}, title="in its place").json()["metadata"]
    assert len(replaced) == MAX_METADATA_PAIRS
    too_long = change(tenant, job.id, title="x" * 513)
    assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "metadata.title")


def test_the_row_and_the_pairs_agree_and_a_clone_asks_as_the_job_did(tenant: Tenant) -> None:
    job = tenant.job(metadata={"team": "red"})
    change(tenant, job.id, title="mine")
    with tenant.api.database.read() as session:
        row = session.get_one(Job, job.id)
        stored = {
            pair.name: pair.value
            for pair in session.query(JobMetadata).where(JobMetadata.job_id == job.id)
        }
        assert row.job_metadata == stored == {"team": "red", "title": "mine"}
    clone = tenant.http.post(f"/v1/fine_tuning/jobs/{job.id}/clone").json()
    assert clone["metadata"] == {"team": "red"}
