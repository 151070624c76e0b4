"""Execution of jobs by workers: claim, renew, append events, finish, release, rescue.

Each is one guarded statement in one transaction. A claim's attempt number is the fencing token: the
holder of an older number matches no row, learns that it is fenced out, and must stop without
writing anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import case, exists, literal, select, update
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from app.base import counters
from app.base.database import UNSYNCED, after_commit, now, now_plus
from app.jobs import next_job
from app.jobs.events import NewEvent, append
from app.models import Attempt, Desired, Job, JobStatus
from app.models.attempt import OUTCOME_LOST
from app.projects import quotas
from app.webhooks import events as webhooks
from falqon_core.contract.figures import Name, Text

_NO_LEASE: dict[str, object] = {
    "lease_owner": None,
    "lease_expires_at": None,
    "preempted_for": None,
}
MAX_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Claim:
    """Right to execute a job, for as long as its lease is renewed."""

    job_id: str
    attempt: int
    owner: str

    @property
    def guard(self) -> tuple[ColumnElement[bool], ...]:
        return (
            Job.id == self.job_id,
            Job.attempt == self.attempt,
            Job.lease_owner == self.owner,
            Job.status == JobStatus.RUNNING,
        )


class JobFailure(NamedTuple):
    code: Name
    message: Text
    param: Name | None = None


def claim(
    session: Session,
    *,
    owner: str,
    device: str,
    num_devices: int,
    lease_seconds: float,
    cards: Sequence[int] = (),
    project_ids: Sequence[str] | None = None,
    only_job: str | None = None,
) -> Job | None:
    """Claim the next job for which these cards of this device suffice, or return None; without any,
    one for a single GPU. The returned job carries the new attempt number. `num_devices` is charged
    for a job of one GPU. `project_ids`: its possible projects; None: every project. `only_job`: the
    one job that it may be.
    """
    offer = next_job.DeviceOffer(device, max(1, len(cards)))
    next_job.wait_for_other_claims(session, offer)
    # Locked rows are skipped: the claim that holds them takes the job, or the next poll finds it
    # again.
    first = next_job.select_next(offer, project_ids, only_job)
    job_id = session.scalar(first.with_for_update(skip_locked=True))
    if job_id is None:
        return None
    statement = (
        update(Job)
        .where(Job.id == job_id, next_job.is_due(Job))
        .values(
            status=JobStatus.RUNNING,
            attempt=Job.attempt + 1,
            lease_owner=owner,
            lease_expires_at=now_plus(lease_seconds),
            started_at=case((Job.started_at.is_(None), now_plus()), else_=Job.started_at),
        )
        .returning(Job)
    )
    job = session.scalars(statement, execution_options=UNSYNCED).one()
    attempt = Attempt(
        job_id=job.id,
        number=job.attempt,
        worker=owner,
        device=device,
        num_devices=num_devices * job.num_gpus,
        cards=list(cards[: job.num_gpus]),
    )
    attempt.base_model_id = job.base_model_id
    attempt.method = job.recipe.kind if job.recipe else None
    session.add(attempt)
    event = NewEvent(
        f"Attempt {job.attempt} started on {device}", data={"attempt": job.attempt, "worker": owner}
    )
    append(session, job.id, [event], status=JobStatus.RUNNING)
    session.flush()
    # Last: claims of one project wait for each other from here to the commit only.
    next_job.charge_virtual_time(session, job.project_id, job.num_gpus)
    after_commit(session, counters.CLAIMS.labels(device).inc)
    return job


def renew(session: Session, claim: Claim, lease_seconds: float) -> Desired | None:
    """Extend the lease; return the desired state, or None when the lease is lost."""
    statement = (
        update(Job)
        .where(*claim.guard)
        .values(lease_expires_at=now_plus(lease_seconds))
        .returning(Job.desired)
    )
    desired = session.scalar(statement, execution_options=UNSYNCED)
    return None if desired is None else Desired(desired)


def is_preempted(session: Session, claim: Claim) -> bool:
    """Return True if the job has to give its cards to another that still waits for them."""
    other = aliased(Job)
    statement = (
        select(Job.id)
        .join(other, other.id == Job.preempted_for)
        .where(*claim.guard, other.is_waiting)
    )
    return session.scalar(statement) is not None


def append_events(
    session: Session, claim: Claim, events: Sequence[NewEvent], **values: object
) -> bool:
    """Add events and set columns of the job; return False when the lease is lost."""
    return append(session, claim.job_id, events, guard=claim.guard, **values)


def append_trainer_events(
    session: Session, claim: Claim, events: Sequence[NewEvent], before: int, **values: object
) -> bool:
    """Do as `append_events` does, for the trainer's events, of which `before` came earlier. Events
    that were written by a transaction whose confirmation was lost are not written again: the job's
    row is locked first, so that transaction has ended.
    """
    if session.scalar(select(Job.id).where(*claim.guard).with_for_update()) is None:
        return False
    attempt = (Attempt.job_id == claim.job_id, Attempt.number == claim.attempt)
    num_written = session.scalars(select(Attempt.relayed).where(*attempt)).one()
    is_ours = append_events(session, claim, events[max(0, num_written - before) :], **values)
    session.execute(
        update(Attempt).where(*attempt).values(relayed=max(num_written, before + len(events))),
        execution_options=UNSYNCED,
    )
    return is_ours


def finish(
    session: Session,
    claim: Claim,
    status: JobStatus,
    event: NewEvent,
    *,
    failure: JobFailure | None = None,
    **values: object,
) -> bool:
    """End the job for good: succeeded, failed or cancelled. A cancel that arrived first wins over
    success.
    """
    guard = (
        claim.guard
        if status is not JobStatus.SUCCEEDED
        else (*claim.guard, Job.desired != Desired.CANCEL)
    )
    values |= _NO_LEASE | {"status": status, "finished_at": now_plus()} | _error_columns(failure)
    if not append(session, claim.job_id, [event], guard=guard, **values):
        return False
    _end_attempt(session, claim.job_id, claim.attempt, status, failure)
    return True


def update_attempt(session: Session, claim: Claim, **values: object) -> None:
    """Set columns of the attempt, after a guarded write in the same transaction."""
    statement = (
        update(Attempt)
        .where(Attempt.job_id == claim.job_id, Attempt.number == claim.attempt)
        .values(**values)
    )
    session.execute(statement, execution_options=UNSYNCED)


def set_log_bytes(session: Session, claim: Claim, log_bytes: int) -> bool:
    """Record the log's size; return False when the lease is lost."""
    statement = (
        update(Attempt)
        .where(
            Attempt.job_id == claim.job_id,
            Attempt.number == claim.attempt,
            exists().where(*claim.guard),
        )
        .values(log_bytes=log_bytes)
        .returning(Attempt.number)
    )
    return session.scalar(statement, execution_options=UNSYNCED) is not None


def pause(session: Session, claim: Claim, reason: str) -> None:
    """Set the desired state for the user, unless they have set one; `release` in the same
    transaction applies it.
    """
    statement = (
        update(Job)
        .where(*claim.guard, Job.desired == Desired.RUN)
        .values(desired=Desired.PAUSE, paused_reason=reason)
    )
    session.execute(statement, execution_options=UNSYNCED)


def ends_as_before(session: Session, claim: Claim, code: str, within_seconds: float) -> bool:
    """Return True if the attempt before this one ended with the same failure, both soon after their
    start and from the same step, or both before the training began.
    """
    attempts = select(Attempt).where(
        Attempt.job_id == claim.job_id, Attempt.number.in_([claim.attempt - 1, claim.attempt])
    )
    both = session.scalars(attempts.order_by(Attempt.number)).all()
    if len(both) < 2:
        return False
    before, this = both
    if before.ended_at is None:
        return False
    lengths = (before.ended_at - before.created_at, now(session) - this.created_at)
    alike = (before.outcome, before.error_code, before.start_step) == (
        OUTCOME_LOST,
        code,
        this.start_step,
    )
    return alike and max(lengths).total_seconds() < within_seconds


def release(
    session: Session,
    claim: Claim,
    event: NewEvent,
    *,
    counts_as_failure: bool,
    max_infra_failures: int,
    retry_seconds: float = 0.0,
    failure: JobFailure | None = None,
    **values: object,
) -> bool:
    """Release the job: it is queued again, or gets the state that the user desires, or fails when
    it was lost too often.

    After a first loss it is claimed no sooner than `retry_seconds` later, after each further one
    twice as late.
    """
    return _requeue(
        session,
        claim.job_id,
        claim.guard,
        event,
        counts_as_failure=counts_as_failure,
        max_infra_failures=max_infra_failures,
        retry_seconds=retry_seconds,
        failure=failure,
        **values,
    )


def rescue(session: Session, *, max_infra_failures: int, retry_seconds: float = 0.0) -> list[str]:
    """Requeue the jobs of workers whose lease ran out; return their ids."""
    expired = (Job.status == JobStatus.RUNNING, Job.lease_expires_at < now_plus())
    lost = JobFailure(
        "worker_lost", "The worker stopped answering, more often than this service retries."
    )
    event = NewEvent("The worker stopped answering; the job goes back to the queue", level="warn")
    ids = session.scalars(select(Job.id).where(*expired).with_for_update(skip_locked=True)).all()
    return [
        job_id
        for job_id in ids
        if _requeue(
            session,
            job_id,
            expired,
            event,
            counts_as_failure=True,
            max_infra_failures=max_infra_failures,
            retry_seconds=retry_seconds,
            failure=lost,
        )
    ]


def take_back(session: Session, job_id: str, *, max_infra_failures: int) -> bool:
    """Take a job from its worker, which learns so from its next heartbeat; the attempt counts as no
    failure. Return False when no worker has it.
    """
    event = NewEvent("The job goes back to the queue: an operator took it from its worker", "warn")
    return _requeue(
        session,
        job_id,
        (Job.status == JobStatus.RUNNING,),
        event,
        counts_as_failure=False,
        max_infra_failures=max_infra_failures,
        retry_seconds=0.0,
        failure=None,
    )


def _requeue(
    session: Session,
    job_id: str,
    guard: Sequence[ColumnElement[bool]],
    event: NewEvent,
    *,
    counts_as_failure: bool,
    max_infra_failures: int,
    retry_seconds: float,
    failure: JobFailure | None,
    **values: object,
) -> bool:
    failures = Job.infra_failures + (1 if counts_as_failure else 0)
    cancelled = Job.desired == Desired.CANCEL
    gave_up = failures > max_infra_failures
    ended = cancelled | gave_up
    values |= {
        "status": case(
            (cancelled, JobStatus.CANCELLED),
            (gave_up, JobStatus.FAILED),
            (Job.desired == Desired.PAUSE, JobStatus.PAUSED),
            else_=JobStatus.QUEUED,
        ),
        "infra_failures": failures,
        "not_before": _retry_at(failures, retry_seconds) if counts_as_failure else None,
        "finished_at": case((ended, now_plus()), else_=Job.finished_at),
        "notified_at": None,
    }
    error = failure or JobFailure(
        "internal_error", "The job failed more often than this service retries."
    )
    for column, value in _error_columns(error).items():
        values[column] = case((gave_up & ~cancelled, literal(value)), else_=getattr(Job, column))
    if not append(session, job_id, [event], guard=guard, **_NO_LEASE, **values):
        return False
    attempt, status = session.execute(select(Job.attempt, Job.status).where(Job.id == job_id)).one()
    outcome = (
        OUTCOME_LOST
        if counts_as_failure
        else {JobStatus.QUEUED: "released"}.get(JobStatus(status), status)
    )
    _end_attempt(session, job_id, attempt, outcome, failure if counts_as_failure else None)
    return True


def _retry_at(failures: ColumnElement[int], retry_seconds: float) -> ColumnElement[datetime]:
    """Return `retry_seconds` after the first failure, twice as much after each further one, and no
    more than the maximum.
    """
    delays = [retry_seconds]
    while 0 < delays[-1] < MAX_RETRY_SECONDS:
        delays.append(min(2 * delays[-1], MAX_RETRY_SECONDS))
    steps = [(failures <= number, now_plus(delay)) for number, delay in enumerate(delays, 1)]
    return case(*steps, else_=now_plus(delays[-1]))


def _end_attempt(
    session: Session, job_id: str, number: int, outcome: str, failure: JobFailure | None
) -> None:
    statement = (
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.number == number)
        .values(ended_at=now_plus(), outcome=outcome, error_code=failure.code if failure else None)
        .returning(Attempt.created_at, Attempt.ended_at, Attempt.num_devices)
    )
    for started, ended, num_devices in session.execute(statement, execution_options=UNSYNCED):
        assert ended is not None
        alert = quotas.book_attempt(session, job_id, started, ended, num_devices)
        if alert is not None:
            webhooks.record_device_hours(session, alert.project_id, alert.level)
    if outcome == OUTCOME_LOST and failure is not None:
        after_commit(session, counters.lost_attempts(failure.code).inc)


def _error_columns(failure: JobFailure | None) -> dict[str, object]:
    if failure is None:
        return {}
    return {
        "error_code": failure.code,
        "error_message": failure.message,
        "error_param": failure.param,
    }
