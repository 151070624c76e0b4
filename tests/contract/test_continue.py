"""New jobs from a fine-tuned model or a checkpoint, and who may."""

from typing import Any

import openai
import pytest
from sqlalchemy import select

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Checkpoint, CheckpointPermission, Job, JobStatus, Project
from tests.support.api import Tenant


def ended_job(tenant: Tenant) -> str:
    """On a base whose id holds a slash."""
    tenant.add_model(f"org/{tenant.base_model}", project_id=None)
    job_id: str = tenant.job(model=f"org/{tenant.base_model}").id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    return job_id


@pytest.fixture
def checkpoint(tenant: Tenant) -> str:
    return tenant.add_checkpoint(ended_job(tenant))


def permissions(tenant: Tenant) -> Any:
    return tenant.client.fine_tuning.checkpoints.permissions


def test_a_fine_tuned_model_is_a_base_and_stays_while_it_is_used(
    tenant: Tenant, stranger: Tenant
) -> None:
    model = f"ft:org/{tenant.base_model}:acme::0123abcd"
    tenant.add_model(model, project_id=tenant.project_id, base=tenant.base_model)
    job = tenant.job(model=model)
    assert (job.model, job.status) == (model, "queued")
    assert [
        listed.id for listed in tenant.client.fine_tuning.jobs.list(extra_query={"model": model})
    ] == [job.id]
    with pytest.raises(openai.BadRequestError, match=job.id) as caught:
        tenant.client.models.delete(model)
    assert (caught.value.code, caught.value.param) == ("model_in_use", "model")
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert tenant.client.models.delete(model).deleted
    for owner in (tenant, stranger):
        with pytest.raises(openai.BadRequestError) as caught:
            owner.job(model=model)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_checkpoint_is_a_base(tenant: Tenant, checkpoint: str) -> None:
    assert checkpoint.endswith(":ckpt-step-4")
    job = tenant.job(model=checkpoint)
    assert job.model == checkpoint
    with tenant.api.database.transaction() as session:
        row = session.get_one(Job, job.id)
        base = session.get_one(Checkpoint, row.base_checkpoint_id)
        assert (base.step, row.base_model_id) == (4, f"org/{tenant.base_model}")
        session.get_one(Project, tenant.project_id).name = "Renamed since"
    # What was exported under this name keeps it.
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).model == checkpoint


def test_of_two_attempts_at_one_step_the_newer_counts(tenant: Tenant) -> None:
    job_id = ended_job(tenant)
    tenant.add_checkpoint(job_id)
    name = tenant.add_checkpoint(job_id, attempt=2)
    job = tenant.job(model=name)
    with tenant.api.database.read() as session:
        assert (
            session.get_one(Checkpoint, session.get_one(Job, job.id).base_checkpoint_id).attempt
            == 2
        )


def test_checkpoints_of_a_job_that_goes_on_cannot_be_used_yet(tenant: Tenant) -> None:
    running = tenant.job().id
    name = tenant.add_checkpoint(running)
    before = tenant.num_rows(Job)
    with pytest.raises(openai.BadRequestError, match="queued") as caught:
        tenant.job(model=name)
    assert (caught.value.code, caught.value.param) == ("checkpoint_not_available", "model")
    assert tenant.num_rows(Job) == before


@pytest.mark.parametrize("change", ["step", "model", "job"])
def test_an_unknown_checkpoint_is_refused(tenant: Tenant, checkpoint: str, change: str) -> None:
    assert "/" in checkpoint
    head, _, step = checkpoint.rpartition("-")
    name = {
        "step": f"{head}-{int(step) + 1}",
        "model": checkpoint.replace(":acme:", ":other:"),
        "job": checkpoint.replace(":ckpt", "0:ckpt"),
    }
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(model=name[change])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_job_stays_while_its_checkpoint_is_used_also_at_second_hand(
    tenant: Tenant, checkpoint: str
) -> None:
    jobs = tenant.client.fine_tuning.jobs
    (first,) = [job.id for job in jobs.list()]
    second = tenant.job(model=checkpoint)
    claim = tenant.claim(second.id)
    with tenant.api.database.transaction() as session:
        claims.finish(session, claim, JobStatus.CANCELLED, NewEvent("ended"))
    third = tenant.job(model=tenant.add_checkpoint(second.id))
    for job_id in (first, second.id):
        response = tenant.http.delete(f"/v1/fine_tuning/jobs/{job_id}")
        assert (response.status_code, response.json()["error"]["code"]) == (
            400,
            "checkpoint_in_use",
        )
    jobs.cancel(third.id)
    name = third.model
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{first}").status_code == 200
    with pytest.raises(openai.BadRequestError, match="has been deleted") as caught:
        tenant.job(model=name)
    assert caught.value.code == "checkpoint_not_available"
    assert tenant.http.delete(f"/v1/fine_tuning/jobs/{second.id}").status_code == 200


def test_a_permission_lets_another_project_continue(
    tenant: Tenant, stranger: Tenant, checkpoint: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        stranger.job(model=checkpoint)
    assert caught.value.code == "model_not_found"
    (permission,) = permissions(tenant).create(checkpoint, project_ids=[stranger.project_id]).data
    assert (permission.object, permission.project_id) == (
        "checkpoint.permission",
        stranger.project_id,
    )
    (again,) = permissions(tenant).create(checkpoint, project_ids=[stranger.project_id]).data
    assert again.id == permission.id, "giving twice is giving once"
    assert stranger.job(model=checkpoint).model == checkpoint
    deleted = permissions(tenant).delete(permission.id, fine_tuned_model_checkpoint=checkpoint)
    assert (deleted.id, deleted.object, deleted.deleted) == (
        permission.id,
        "checkpoint.permission",
        True,
    )
    with pytest.raises(openai.BadRequestError):
        stranger.job(model=checkpoint)
    with pytest.raises(openai.NotFoundError) as missing:
        permissions(tenant).delete(permission.id, fine_tuned_model_checkpoint=checkpoint)
    assert missing.value.code == "permission_not_found"


def test_a_model_stays_while_another_project_continues_from_it(
    tenant: Tenant, stranger: Tenant
) -> None:
    model = f"ft:org/{tenant.base_model}:acme::89abcdef"
    tenant.add_model(model, project_id=tenant.project_id, base=tenant.base_model)
    job_id: str = tenant.job(model=model).id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    checkpoint = tenant.add_checkpoint(job_id)
    permissions(tenant).create(checkpoint, project_ids=[stranger.project_id])
    theirs = stranger.job(model=checkpoint).id
    with pytest.raises(openai.BadRequestError, match="a job of another project") as caught:
        tenant.client.models.delete(model)
    assert caught.value.code == "model_in_use"
    assert theirs not in str(caught.value)
    refused = tenant.http.delete(f"/v1/fine_tuning/jobs/{job_id}").json()["error"]
    assert refused["code"] == "checkpoint_in_use"
    assert "a job of another project" in refused["message"]
    assert theirs not in refused["message"]
    stranger.client.fine_tuning.jobs.cancel(theirs)
    assert tenant.client.models.delete(model).deleted


def test_only_the_owner_shares_a_model_and_only_with_existing_projects(
    tenant: Tenant, stranger: Tenant, checkpoint: str
) -> None:
    before = tenant.num_rows(CheckpointPermission)
    with pytest.raises(openai.BadRequestError) as caught:
        permissions(tenant).create(checkpoint, project_ids=[stranger.project_id, "proj_nobody"])
    assert (caught.value.code, caught.value.param) == ("project_not_found", "project_ids")
    for wrong in (
        {},
        {"project_ids": []},
        {"project_ids": "proj"},
        {"project_ids": ["a\0b"]},
        {"project_ids": [], "x": 1},
    ):
        assert (
            tenant.http.post(
                f"/v1/fine_tuning/checkpoints/{checkpoint}/permissions", json=wrong
            ).status_code
            == 400
        )
    for call in (
        lambda: permissions(stranger).create(checkpoint, project_ids=[tenant.project_id]),
        lambda: permissions(stranger).list(checkpoint),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            call()
        assert missing.value.code == "checkpoint_not_found"
    assert tenant.num_rows(CheckpointPermission) == before
    with tenant.api.database.read() as session:
        assert (
            session.scalars(select(CheckpointPermission.project_id)).all().count("proj_nobody") == 0
        )
