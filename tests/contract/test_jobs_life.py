from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import JobStatus
from app.models.job_progress import JobProgress
from tests.contract.test_jobs import COST, PROGRESS, jobs_of, messages
from tests.support.api import Tenant

pytestmark = pytest.mark.both_databases


def test_cancel_before_anyone_works_on_it_is_immediate_and_idempotent(tenant: Tenant) -> None:
    job = tenant.job()
    for _ in range(2):
        cancelled = jobs_of(tenant).cancel(job.id)
        assert (cancelled.status, cancelled.error) == ("cancelled", None)
        assert cancelled.finished_at is not None
    assert messages(tenant, job.id)[-1:] == ["The job is cancelled"]
    assert messages(tenant, job.id).count("The job is cancelled") == 1


def test_a_running_job_is_asked_to_stop(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    for call in (
        jobs_of(tenant).pause,
        jobs_of(tenant).resume,
        jobs_of(tenant).cancel,
        jobs_of(tenant).cancel,
    ):
        assert call(job.id).status == "running"
    with pytest.raises(openai.BadRequestError) as caught:
        jobs_of(tenant).pause(job.id)
    assert caught.value.code == "job_not_pausable"
    with tenant.api.database.transaction() as session:
        assert claims.renew(session, claim, 60) == "cancel"
        claims.finish(session, claim, JobStatus.CANCELLED, NewEvent("stopped"))
    assert jobs_of(tenant).retrieve(job.id).status == "cancelled"


def test_pause_and_resume_in_the_queue(tenant: Tenant) -> None:
    job = tenant.job()
    paused = jobs_of(tenant).pause(job.id)
    assert (paused.status, paused.paused_reason) == ("paused", "requested")
    resumed = jobs_of(tenant).resume(job.id)
    assert (resumed.status, resumed.paused_reason) == ("queued", None)
    assert tenant.claim(job.id).attempt == 1


def test_pause_while_files_are_checked(tenant: Tenant) -> None:
    file_id = tenant.upload(check=False)
    job = tenant.job(training_file=file_id)
    assert jobs_of(tenant).pause(job.id).status == "paused"
    assert jobs_of(tenant).resume(job.id).status == "validating_files"
    jobs_of(tenant).pause(job.id)
    assert tenant.check(file_id) == []
    assert jobs_of(tenant).resume(job.id).status == "queued"


def test_ended_jobs_stay_as_they_are(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        claims.finish(
            session,
            claim,
            JobStatus.SUCCEEDED,
            NewEvent("done"),
            fine_tuned_model_id="ft:x",
            trained_tokens=99,
        )
    done = jobs_of(tenant).retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", "ft:x", 99)
    codes = {
        jobs_of(tenant).cancel: "job_already_ended",
        jobs_of(tenant).pause: "job_not_pausable",
        jobs_of(tenant).resume: "job_not_paused",
    }
    for call, code in codes.items():
        with pytest.raises(openai.BadRequestError) as caught:
            call(job.id)
        assert caught.value.code == code
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert jobs_of(tenant).retrieve(job.id) == done


def test_progress_cost_and_attempts_of_a_running_job(tenant: Tenant) -> None:
    job = tenant.job()
    claim = tenant.claim(job.id)
    assert jobs_of(tenant).retrieve(job.id).estimated_finish is None
    with tenant.api.database.transaction() as session:
        claims.append_events(
            session, claim, [], progress=JobProgress.model_validate(PROGRESS | {"cost": COST})
        )
    running = jobs_of(tenant).retrieve(job.id)
    assert running.progress == PROGRESS
    assert running.cost == COST
    assert 50 <= running.estimated_finish - running.attempts[0]["started_at"] <= 90
    assert (
        running.attempts[0]["number"],
        running.attempts[0]["device"],
        running.attempts[0]["outcome"],
    ) == (1, "cpu", None)


def test_checks_that_end_at_once_release_each_job_once(tenant: Tenant) -> None:
    pairs = [(tenant.upload(check=False), tenant.upload(check=False)) for _ in range(8)]
    jobs = [
        tenant.job(training_file=training, validation_file=validation).id
        for training, validation in pairs
    ]
    with ThreadPoolExecutor(2) as pool:
        released = [
            job_id for pair in pairs for ids in pool.map(tenant.check, pair) for job_id in ids
        ]
    assert released == jobs
    assert {job.status for job in jobs_of(tenant).list()} == {"queued"}


def test_a_job_asked_for_while_its_file_is_checked_is_not_forgotten(tenant: Tenant) -> None:
    files = [tenant.upload(check=False) for _ in range(8)]
    with ThreadPoolExecutor(2) as pool:
        for file_id in files:
            checked = pool.submit(tenant.check, file_id)
            created = pool.submit(lambda id_: tenant.job(training_file=id_).id, file_id)
            checked.result(), created.result()
    assert {job.status for job in jobs_of(tenant).list()} == {"queued"}
