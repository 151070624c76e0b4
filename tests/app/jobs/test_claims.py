from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, select, update

from app.base.database import Database, now_plus
from app.base.ids import new_id
from app.jobs import claims
from app.jobs.claims import Claim, JobFailure
from app.jobs.events import NewEvent
from app.models import DEFAULT_PROJECT_ID, Attempt, Desired, Event, Job, JobStatus, Model, Project
from app.models.job_progress import JobProgress
from tests.support.rows import checked_file, queued_job

LEASE = 60.0


@pytest.fixture
def jobs(database: Database) -> list[str]:
    """Three queued jobs, oldest first."""
    with database.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
        session.add(Model(id="tiny", config={}, bytes=1))
        session.flush()
        session.add(checked_file("file-a", DEFAULT_PROJECT_ID))
        session.flush()
        ids = [new_id("ftjob-") for _ in range(3)]
        session.add_all(queued_job(id_, DEFAULT_PROJECT_ID, "file-a") for id_ in ids)
    return ids


def take(database: Database, owner: str = "worker-1", lease: float = LEASE) -> Claim | None:
    with database.transaction() as session:
        job = claims.claim(session, owner=owner, device="cpu", num_devices=1, lease_seconds=lease)
        return Claim(job.id, job.attempt, owner) if job else None


def must_take(database: Database, owner: str = "worker-1", lease: float = LEASE) -> Claim:
    claim = take(database, owner, lease)
    assert claim is not None
    return claim


def read(database: Database, job_id: str) -> Job:
    with database.read() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def set_desired(database: Database, job_id: str, desired: Desired) -> None:
    with database.transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(desired=desired))


def test_only_jobs_that_should_run_are_taken(database: Database, jobs: list[str]) -> None:
    set_desired(database, jobs[0], Desired.PAUSE)
    assert must_take(database).job_id == jobs[1]


def test_renewal_answers_the_desired_state_and_a_zombie_gets_none(
    database: Database, jobs: list[str]
) -> None:
    mine = must_take(database, lease=0)
    set_desired(database, mine.job_id, Desired.CANCEL)
    with database.transaction() as session:
        assert claims.renew(session, mine, 0) is Desired.CANCEL
    set_desired(database, mine.job_id, Desired.RUN)
    with database.transaction() as session:
        assert claims.rescue(session, max_infra_failures=3) == [mine.job_id]
    second = must_take(database, "worker-2")
    assert second == Claim(mine.job_id, 2, "worker-2")
    with database.transaction() as session:
        assert claims.renew(session, mine, LEASE) is None
        assert not claims.append_events(session, mine, [NewEvent("from the grave")])
        assert not claims.finish(session, mine, JobStatus.SUCCEEDED, NewEvent("done"))
    assert read(database, mine.job_id).status == JobStatus.RUNNING


def test_a_job_that_loses_too_many_workers_fails_with_the_reason(
    database: Database, jobs: list[str]
) -> None:
    for expected in (JobStatus.QUEUED, JobStatus.FAILED):
        mine = must_take(database, lease=0)
        with database.transaction() as session:
            claims.rescue(session, max_infra_failures=1)
        job = read(database, mine.job_id)
        assert job.status == expected
    assert job.error_code == "worker_lost"
    assert job.finished_at is not None
    with database.read() as session:
        outcomes = session.scalars(
            select(Attempt.outcome).where(Attempt.job_id == mine.job_id)
        ).all()
    assert outcomes == ["lost", "lost"]


@pytest.mark.parametrize(
    ("desired", "expected"),
    [
        (Desired.RUN, JobStatus.QUEUED),
        (Desired.PAUSE, JobStatus.PAUSED),
        (Desired.CANCEL, JobStatus.CANCELLED),
    ],
)
def test_release_goes_where_the_user_wants_and_costs_no_attempt(
    database: Database, jobs: list[str], desired: Desired, expected: JobStatus
) -> None:
    mine = must_take(database)
    set_desired(database, mine.job_id, desired)
    with database.transaction() as session:
        assert claims.release(
            session, mine, NewEvent("Stopped"), counts_as_failure=False, max_infra_failures=0
        )
    job = read(database, mine.job_id)
    assert (job.status, job.infra_failures, job.lease_owner, job.error_code) == (
        expected,
        0,
        None,
        None,
    )


def test_a_cancel_that_came_first_beats_success(database: Database, jobs: list[str]) -> None:
    mine = must_take(database)
    set_desired(database, mine.job_id, Desired.CANCEL)
    with database.transaction() as session:
        assert not claims.finish(session, mine, JobStatus.SUCCEEDED, NewEvent("done"))
        assert claims.finish(session, mine, JobStatus.CANCELLED, NewEvent("cancelled"))
    assert read(database, mine.job_id).status == JobStatus.CANCELLED


def test_a_failure_is_kept_on_job_and_attempt(database: Database, jobs: list[str]) -> None:
    mine = must_take(database)
    with database.transaction() as session:
        assert claims.finish(
            session,
            mine,
            JobStatus.FAILED,
            NewEvent("bad", level="error"),
            failure=JobFailure("loss_not_finite", "NaN", "learning_rate"),
        )
        assert not claims.finish(session, mine, JobStatus.SUCCEEDED, NewEvent("done"))
    job = read(database, mine.job_id)
    assert (job.error_code, job.error_message, job.error_param) == (
        "loss_not_finite",
        "NaN",
        "learning_rate",
    )
    with database.read() as session:
        assert session.scalars(select(Attempt.error_code)).one() == "loss_not_finite"


def test_events_have_no_gaps_whoever_writes_them(database: Database, jobs: list[str]) -> None:
    mine = must_take(database)

    def write(index: int) -> bool:
        with database.transaction() as session:
            return claims.append_events(
                session,
                mine,
                [NewEvent(f"{index}.{part}") for part in range(3)],
                progress=JobProgress(step=index),
            )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write, range(10)))
    with database.read() as session:
        numbers = session.scalars(
            select(Event.seq).where(Event.job_id == mine.job_id).order_by(Event.seq)
        ).all()
        assert session.scalar(select(now_plus())) is not None
    assert numbers == list(range(1, 32))
    assert read(database, mine.job_id).last_event_seq == 31


def test_a_lost_job_waits_twice_as_long_each_time_and_holds_up_no_other(
    database: Database, jobs: list[str]
) -> None:
    with database.transaction() as session:
        session.execute(delete(Job).where(Job.id == jobs[2]))
    for seconds in (25, 50, 60, 60):
        mine = must_take(database)
        with database.transaction() as session:
            earliest = session.scalar(select(now_plus(seconds)))
            assert claims.release(
                session,
                mine,
                NewEvent("lost"),
                counts_as_failure=True,
                max_infra_failures=9,
                retry_seconds=25,
            )
            latest = session.scalar(select(now_plus(seconds)))
        job = read(database, mine.job_id)
        assert earliest is not None
        assert job.not_before is not None
        assert latest is not None
        assert earliest <= job.not_before <= latest
        other = must_take(database, "worker-2")
        assert other.job_id == jobs[1], "the next one is taken meanwhile"
        assert take(database) is None
        with database.transaction() as session:
            claims.release(
                session, other, NewEvent("drained"), counts_as_failure=False, max_infra_failures=9
            )
            session.execute(update(Job).where(Job.id == jobs[0]).values(not_before=now_plus(-1)))
    assert read(database, jobs[1]).not_before is None


def test_a_job_released_without_a_failure_does_not_wait(
    database: Database, jobs: list[str]
) -> None:
    mine = must_take(database)
    with database.transaction() as session:
        claims.release(
            session,
            mine,
            NewEvent("drained"),
            counts_as_failure=False,
            max_infra_failures=3,
            retry_seconds=25,
        )
    assert must_take(database).job_id == mine.job_id
