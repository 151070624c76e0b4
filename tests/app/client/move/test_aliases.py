"""Code that names a model of OpenAI gets the one that the operator lets it stand for."""

import openai
import pytest

from tests.app.client.move.conftest import ALIASES, BASE
from tests.support.api import Tenant


def test_a_job_may_call_its_model_by_an_alias(tenant: Tenant) -> None:
    for alias in ALIASES:
        job = tenant.job(model=alias)
        assert job.model == BASE, "the answer says which model it is"
        assert tenant.client.fine_tuning.jobs.retrieve(job.id).model == BASE
        assert tenant.client.models.retrieve(alias).id == BASE
    clone = tenant.http.post(f"/v1/fine_tuning/jobs/{job.id}/clone").json()
    assert clone["model"] == BASE
    listed = tenant.http.get("/v1/fine_tuning/jobs", params={"model": "gpt-4o-mini"}).json()
    assert len(listed["data"]) == len(ALIASES) + 1


def test_a_name_that_stands_for_nothing_is_refused(tenant: Tenant) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        tenant.job(model="gpt-4.1")
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        tenant.client.models.delete("gpt-4o-mini")
