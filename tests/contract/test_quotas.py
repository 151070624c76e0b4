from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from sqlalchemy import delete, update

from app.base.database import now_plus
from app.base.storage import keys
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Attempt, Event, File, Job, JobStatus, UploadPart
from tests.support.api import Tenant, jsonl

pytestmark = pytest.mark.both_databases

SIZE = len(jsonl())


def refusal(ask: Callable[[], object]) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        ask()
    error = caught.value
    assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.request.headers["x-stainless-retry-count"] == "0"
    return error


def submit(tenant: Tenant, file_id: str) -> httpx.Response:
    return tenant.http.post(
        "/v1/fine_tuning/jobs", json={"model": tenant.base_model, "training_file": file_id}
    )


def ran_for(tenant: Tenant, job_id: str, hours: float) -> Claim:
    claim = tenant.claim(job_id)
    with tenant.api.database.transaction() as session:
        session.execute(
            update(Attempt)
            .where(Attempt.job_id == job_id)
            .values(created_at=now_plus(-hours * 3600))
        )
    return claim


def test_live_jobs_are_counted_until_they_end(tenant: Tenant) -> None:
    tenant.limit(max_live_jobs=2)
    first = tenant.job()
    second = tenant.job()
    tenant.client.fine_tuning.jobs.pause(second.id)
    file_id = tenant.upload()
    before = tenant.num_rows(Job, Event)
    error = refusal(
        lambda: tenant.client.fine_tuning.jobs.create(
            model=tenant.base_model, training_file=file_id
        )
    )
    assert error.param == "max_live_jobs"
    assert "2 jobs of this project have not ended, and its quota is 2" in error.message
    assert tenant.num_rows(Job, Event) == before
    tenant.client.fine_tuning.jobs.cancel(first.id)
    assert tenant.job().status == "queued"


def test_a_job_above_the_ceiling_of_its_project_is_refused_before_it_waits_for_ever(
    tenant: Tenant,
) -> None:
    tenant.limit(max_running_gpus=1)
    assert tenant.job().status == "queued"
    tenant.limit(max_running_gpus=0)
    error = refusal(tenant.job)
    assert error.param == "max_running_gpus"
    assert "this project may hold 0 GPUs, and this one needs 1" in error.message


def test_of_many_submissions_at_once_only_as_many_pass_as_may(
    tenant: Tenant, stranger: Tenant
) -> None:
    tenant.limit(max_live_jobs=3)
    # jobs on one file would wait for each other anyway
    files = {t: [t.upload() for _ in range(6)] for t in (tenant, stranger)}
    with ThreadPoolExecutor(8) as pool:
        mine, theirs = (
            [pool.submit(submit, t, file_id) for file_id in files[t]] for t in (tenant, stranger)
        )
    assert sorted(answer.result().status_code for answer in mine) == [200] * 3 + [429] * 3
    assert [answer.result().status_code for answer in theirs] == [200] * 6


def test_stored_bytes_are_counted_until_they_are_deleted(tenant: Tenant) -> None:
    tenant.limit(max_storage_bytes=2 * SIZE)
    first = tenant.upload()
    second = tenant.upload()
    error = refusal(lambda: tenant.upload(check=False))
    assert error.param == "max_storage_bytes"
    assert (
        f"hold {2 * SIZE} bytes, {SIZE} more are requested, and its quota is {2 * SIZE}"
        in error.message
    )
    assert len(tenant.api.storage.keys(keys.file_content(tenant.project_id, ""))) == 2
    refusal(
        lambda: tenant.client.fine_tuning.jobs.create(model=tenant.base_model, training_file=second)
    )
    tenant.client.files.delete(first)
    assert (
        tenant.client.fine_tuning.jobs.create(model=tenant.base_model, training_file=second).status
        == "queued"
    )
    assert tenant.upload()


def test_of_many_uploads_at_once_only_as_many_pass_as_fit(tenant: Tenant) -> None:
    tenant.limit(max_storage_bytes=2 * SIZE + 1)

    def upload(_: int) -> int:
        form = {"files": {"file": ("rows.jsonl", jsonl())}, "data": {"purpose": "fine-tune"}}
        return tenant.http.post("/v1/files", **form).status_code

    before = tenant.num_rows(File)[0]
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(upload, range(8))) == [200] * 2 + [429] * 6
    assert tenant.num_rows(File) == [before + 2]


def test_parts_of_uploads_count_until_their_file_takes_their_place(tenant: Tenant) -> None:
    uploads = tenant.client.uploads
    first, second, third = (
        uploads.create(filename="r.jsonl", purpose="fine-tune", bytes=SIZE, mime_type="text/plain")
        for _ in range(3)
    )
    part, _ = (uploads.parts.create(upload.id, data=jsonl()) for upload in (first, second))
    tenant.limit(max_storage_bytes=2 * SIZE)
    before = tenant.num_rows(UploadPart)
    refusal(
        lambda: uploads.create(
            filename="r.jsonl", purpose="fine-tune", bytes=1, mime_type="text/plain"
        )
    )
    assert (
        refusal(lambda: uploads.parts.create(third.id, data=jsonl())).param == "max_storage_bytes"
    )
    assert tenant.num_rows(UploadPart) == before
    assert tenant.api.storage.keys(keys.upload_part(tenant.project_id, third.id, "")) == [], (
        "bytes were written before it was refused"
    )
    assert uploads.complete(first.id, part_ids=[part.id]).status == "completed"
    refusal(lambda: tenant.upload(check=False))
    uploads.cancel(second.id)
    assert tenant.upload()


def test_a_file_in_parts_over_the_quota_is_refused_before_they_are_copied(tenant: Tenant) -> None:
    uploads = tenant.client.uploads
    upload = uploads.create(
        filename="rows.jsonl", purpose="fine-tune", bytes=SIZE, mime_type="application/jsonl"
    )
    part = uploads.parts.create(upload.id, data=jsonl())
    file_id = tenant.upload()
    tenant.limit(max_storage_bytes=SIZE)
    stored = tenant.stored()
    assert (
        refusal(lambda: uploads.complete(upload.id, part_ids=[part.id])).param
        == "max_storage_bytes"
    )
    assert tenant.stored() == stored
    tenant.client.files.delete(file_id)
    assert uploads.complete(upload.id, part_ids=[part.id]).status == "completed"


def test_a_stored_file_is_its_call_s_answer_again_whatever_the_quota(tenant: Tenant) -> None:
    uploads = tenant.client.uploads
    repeated = {"Idempotency-Key": "k"}

    def create(content: bytes) -> str:
        return tenant.client.files.create(
            file=("rows.jsonl", content), purpose="fine-tune", extra_headers=repeated
        ).id

    file_id = create(jsonl())
    upload = uploads.create(
        filename="rows.jsonl", purpose="fine-tune", bytes=SIZE, mime_type="application/jsonl"
    )
    part = uploads.parts.create(upload.id, data=jsonl())
    tenant.limit(max_storage_bytes=1)
    stored = tenant.stored()
    assert create(jsonl()) == file_id
    with pytest.raises(openai.UnprocessableEntityError):
        create(jsonl(3))
    refusal(lambda: tenant.upload(check=False))
    completed = uploads.complete(upload.id, part_ids=[part.id], extra_headers=repeated)
    assert completed.file is not None
    assert completed.file.id == file_id
    assert tenant.stored() == stored, "what repeats a call is compared, not stored"


def test_device_hours_count_running_and_ended_attempts_even_of_deleted_jobs(tenant: Tenant) -> None:
    job = tenant.job()
    paused = tenant.job()
    tenant.client.fine_tuning.jobs.pause(paused.id)
    tenant.limit(max_device_hours=0.001)
    assert tenant.job().status == "queued"
    claim = ran_for(tenant, job.id, 0.1)
    file_id = tenant.upload()
    error = refusal(
        lambda: tenant.client.fine_tuning.jobs.create(
            model=tenant.base_model, training_file=file_id
        )
    )
    assert error.param == "max_device_hours"
    assert "its quota is 0.001 a month" in error.message
    assert (
        refusal(lambda: tenant.client.fine_tuning.jobs.resume(paused.id)).param
        == "max_device_hours"
    )
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, JobStatus.SUCCEEDED, NewEvent("done"))
        session.execute(delete(Job).where(Job.id == job.id))
    assert submit(tenant, file_id).status_code == 429
    tenant.limit(max_device_hours=None)
    assert submit(tenant, file_id).status_code == 200
    assert tenant.client.fine_tuning.jobs.resume(paused.id).status == "queued"


def test_estimates_and_dry_runs_cost_no_quota(tenant: Tenant) -> None:
    tenant.limit(max_live_jobs=0)
    body = {"model": tenant.base_model, "training_file": tenant.upload()}
    assert tenant.http.post("/v1/fine_tuning/estimates", json=body).status_code == 200
    assert tenant.http.post("/v1/fine_tuning/jobs?dry_run=true", json=body).status_code == 200
    assert tenant.http.post("/v1/fine_tuning/jobs", json=body).status_code == 429
