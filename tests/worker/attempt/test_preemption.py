"""A job that gives its card back, with real workers: in the middle of it the worker is killed, the
job cancelled, or the waiting one.
"""

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from app.jobs import claims, preemption, transitions
from app.models import DEFAULT_PROJECT_ID, Desired, Job, JobStatus, Project
from tests.support.backend import Backend
from tests.support.fake_trainer import FakeTrainer, weights_of
from tests.support.waiting import wait_for
from tests.worker.attempt.test_supervisor import executing

STEPS = 400
LONG = FakeTrainer(steps=STEPS, step_seconds=0.01, checkpoint_every=50)
OTHER_PROJECT = "proj_other"


@pytest.fixture
def backend(embedded_backend: Backend) -> Backend:
    with embedded_backend.database.transaction() as session:
        session.add(Project(id=OTHER_PROJECT, name="other", guaranteed_gpus=1))
    return embedded_backend


def add_owed_job(backend: Backend) -> str:
    """Add a job of the project that is guaranteed a card."""
    job_id = backend.add_job(FakeTrainer(steps=3))
    backend.set(job_id, project_id=OTHER_PROJECT)
    return job_id


def preempt(backend: Backend) -> list[str]:
    decided = preemption.preempt(backend.database, backend.settings)
    return [victim.id for each in decided for victim in each.victims]


def test_a_preempted_job_continues_where_it_stopped(backend: Backend) -> None:
    supervisor = backend.supervisor()
    long = backend.add_job(LONG)
    with executing(supervisor):
        backend.wait_for_step(long, 5)
        owed = add_owed_job(backend)
        assert preempt(backend) == [long]
    job = backend.job(long)
    assert (job.status, job.infra_failures, job.lease_owner) == (JobStatus.QUEUED, 0, None)
    assert job.progress is not None
    assert backend.checkpoints(long)[-1].step == job.progress.step
    assert backend.events(long)[-1].message == (
        "The job has given its GPUs back; it waits in the queue "
        "and continues from its newest checkpoint"
    )
    assert preempt(backend) == []
    assert supervisor.execute_next()
    assert backend.job(owed).status == JobStatus.SUCCEEDED
    assert supervisor.execute_next()
    first, second = backend.attempts(long)
    assert (first.outcome, second.start_step) == ("released", job.progress.step)
    assert backend.weights(long) == weights_of(STEPS)


@pytest.mark.parametrize(
    ("change", "ended"),
    [(transitions.cancel, JobStatus.CANCELLED), (transitions.pause, JobStatus.PAUSED)],
)
def test_a_job_that_its_user_stops_meanwhile_stays_stopped(
    backend: Backend, change: Callable[[Session, str, str], Job], ended: JobStatus
) -> None:
    supervisor = backend.supervisor()
    long = backend.add_job(LONG)
    with executing(supervisor):
        backend.wait_for_step(long, 5)
        owed = add_owed_job(backend)
        assert preempt(backend) == [long]
        with backend.database.transaction() as session:
            change(session, DEFAULT_PROJECT_ID, long)
    assert backend.job(long).status == ended
    assert supervisor.execute_next()
    assert backend.job(owed).status == JobStatus.SUCCEEDED
    assert not supervisor.execute_next()


def test_a_job_goes_on_if_the_one_that_waited_is_cancelled_before_the_next_heartbeat(
    backend: Backend,
) -> None:
    supervisor = backend.supervisor()
    long = backend.add_job(LONG)
    with executing(supervisor):
        backend.wait_for_step(long, 5)
        owed = add_owed_job(backend)
        with backend.database.transaction() as session:
            assert claims.append_events(session, _claim_of(backend, long), [], preempted_for=owed)
            transitions.cancel(session, OTHER_PROJECT, owed)
        assert preempt(backend) == []
    assert backend.job(long).status == JobStatus.SUCCEEDED
    assert [attempt.outcome for attempt in backend.attempts(long)] == ["succeeded"]


def test_a_worker_that_is_killed_in_the_middle_loses_nothing(backend: Backend) -> None:
    backend.settings = backend.settings.model_copy(
        update={"redis_url": "redis://127.0.0.1:1/0", "stop_grace": backend.settings.lease}
    )
    long = backend.add_job(LONG.model_copy(update={"ignores_sigterm": True}))
    worker = backend.start_worker(FALQON_LEASE="PT5S")
    backend.wait_for_checkpoint(long)
    owed = add_owed_job(backend)
    assert preempt(backend) == [long]
    worker.kill()
    worker.wait()

    def rescue() -> list[str]:
        with backend.database.transaction() as session:
            return claims.rescue(session, max_infra_failures=3)

    wait_for(lambda: rescue() == [long], what="the lease ends")
    assert backend.job(long).preempted_for is None
    assert preempt(backend) == []
    supervisor = backend.supervisor()
    assert supervisor.execute_next()
    assert backend.job(owed).status == JobStatus.SUCCEEDED
    assert supervisor.execute_next()
    assert backend.weights(long) == weights_of(STEPS)
    assert backend.attempts(long)[1].start_step


def _claim_of(backend: Backend, job_id: str) -> claims.Claim:
    job = backend.job(job_id)
    assert job.lease_owner is not None
    assert job.desired == Desired.RUN
    return claims.Claim(job.id, job.attempt, job.lease_owner)
