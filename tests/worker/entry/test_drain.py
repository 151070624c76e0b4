"""What `falqon admin drain` and `requeue` do to a worker that has a job."""

from click.testing import Result

from app.models import JobStatus
from tests.support.admin import falqon_admin
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.waiting import wait_for
from tests.worker.attempt.test_supervisor import executing

LONG = FakeTrainer(steps=5000, step_seconds=0.02, checkpoint_every=10)


def admin(backend: Backend, *arguments: str) -> Result:
    return falqon_admin(backend.environment(), *arguments)


def test_a_drained_worker_stores_a_checkpoint_and_takes_nothing_more(
    embedded_backend: Backend,
) -> None:
    backend = embedded_backend
    supervisor = backend.supervisor()
    owner = supervisor.gateway.owner
    job_id = backend.add_job(LONG)
    with executing(supervisor):
        backend.wait_for_step(job_id, 5)
        done = admin(backend, "drain", owner, "--now")
        assert done.output == f"{owner} takes no more jobs; {job_id} goes back to the queue.\n"
    job = backend.job(job_id)
    assert (job.status, job.infra_failures) == (JobStatus.QUEUED, 0)
    assert backend.checkpoints(job_id)[-1].step == job.progress.step
    backend.set(job_id, status=JobStatus.CANCELLED)
    other = backend.add_job()
    assert not supervisor.execute_next()
    assert admin(backend, "drain", owner, "--off").output == f"{owner} takes jobs again.\n"
    assert supervisor.execute_next()
    assert backend.job(other).status == JobStatus.SUCCEEDED


def test_a_machine_is_drained_by_its_name_and_finishes_its_job(embedded_backend: Backend) -> None:
    backend = embedded_backend
    supervisor = backend.supervisor()
    owner = supervisor.gateway.owner
    job_id = backend.add_job(FakeTrainer(steps=100, step_seconds=0.01))
    with executing(supervisor):
        backend.wait_for_step(job_id, 1)
        done = admin(backend, "drain", owner.rpartition("-")[0])
        assert done.output == f"{owner} takes no more jobs; it finishes {job_id}.\n"
    assert backend.weights(job_id) == weights_of(100)
    waiting = backend.add_job()
    assert not supervisor.execute_next()
    assert backend.job(waiting).status == JobStatus.QUEUED
    unknown = admin(backend, "drain", "nobody")
    assert unknown.exit_code == 1
    assert f"workers that live: {owner}." in unknown.output


def test_a_job_is_taken_from_its_worker_and_another_continues(embedded_backend: Backend) -> None:
    backend = embedded_backend
    zombie = backend.supervisor()
    job_id = backend.add_job(FakeTrainer(steps=300, step_seconds=0.01))
    with executing(zombie):
        backend.wait_for_checkpoint(job_id)
        done = admin(backend, "requeue", job_id)
        owner = zombie.gateway.owner
        assert done.output == f"{job_id} is taken from {owner} and waits in the queue.\n"
    wait_for(lambda: not backend.trainers(), 20, "the worker kills its trainer")
    assert backend.supervisor().execute_next()
    first, second = backend.attempts(job_id)
    assert (first.outcome, second.start_step > 0) == ("released", True)
    assert backend.job(job_id).infra_failures == 0
    assert backend.weights(job_id) == weights_of(300)
    ended = admin(backend, "requeue", job_id)
    assert ended.exit_code == 1
    assert "has ended (succeeded)" in ended.output


def test_a_job_that_waits_after_losses_starts_at_once(embedded_backend: Backend) -> None:
    backend = embedded_backend
    job_id = backend.add_job()
    later = backend.job(job_id).created_at.replace(year=9000)
    backend.set(job_id, not_before=later, infra_failures=3)
    assert not backend.supervisor().execute_next()
    assert admin(backend, "requeue", job_id).exit_code == 0
    assert backend.supervisor().execute_next()
    assert backend.job(job_id).status == JobStatus.SUCCEEDED
    assert "No job is named 'ftjob-none'" in admin(backend, "requeue", "ftjob-none").output
