"""Outcomes of an attempt without a result: the job fails, pauses, or waits for the next attempt."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.attempts.values import Ending, Verdict
from app.base.settings import Settings
from app.jobs import claims
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Desired, Job, JobStatus
from falqon_core.contract.errors import DiskFull

# Failures of one attempt after the other at the same step: another attempt will not help. A kill
# from outside says nothing about the job.
POISON_CODES = {"trainer_crashed", "internal_error", "checkpoint_corrupt"}
POISON_SECONDS = 60.0


def record(session: Session, settings: Settings, claim: Claim, ending: Ending) -> bool:
    """Record the outcome of the attempt. Return False when it no longer holds the job."""
    if ending.verdict is Verdict.FAILED:
        return _fail(session, claim, ending)
    return _release(session, settings, claim, ending)


def _fail(session: Session, claim: Claim, ending: Ending) -> bool:
    failure = ending.failure
    assert failure is not None, "a failed job has a reason"
    event = NewEvent(
        f"The job has failed: {failure.message}",
        level="error",
        data={"code": failure.code, "param": failure.param},
    )
    columns = ending.columns.values()
    event = _add_log(event, ending)
    return claims.finish(session, claim, JobStatus.FAILED, event, failure=failure, **columns)


def _release(session: Session, settings: Settings, claim: Claim, ending: Ending) -> bool:
    if ending.verdict is Verdict.DISK_FULL:
        claims.pause(session, claim, DiskFull.code)
    elif ending.cap is not None:
        claims.pause(session, claim, f"budget: {ending.cap} is used up")
    max_infra_failures = settings.max_infra_failures
    code = ending.failure.code if ending.failure else ""
    # Before training the fault is this machine's, and another may do better.
    is_poison = ending.has_trained and code in POISON_CODES
    if is_poison and claims.ends_as_before(session, claim, code, POISON_SECONDS):
        max_infra_failures = 0
    preempted_for = session.scalar(select(Job.preempted_for).where(*claim.guard))
    event = _release_event(claim, ending, preempted_for is not None)
    return claims.release(
        session,
        claim,
        _add_log(event, ending),
        counts_as_failure=ending.verdict is Verdict.LOST,
        max_infra_failures=max_infra_failures,
        retry_seconds=settings.retry_delay.total_seconds(),
        failure=ending.failure,
        **ending.columns.values(),
    )


def _add_log(event: NewEvent, ending: Ending) -> NewEvent:
    if not ending.trainer_log:
        return event
    return event._replace(data={**(event.data or {}), "trainer_log": ending.trainer_log})


def _release_event(claim: Claim, ending: Ending, is_preempted: bool) -> NewEvent:
    failure = ending.failure
    desired = ending.desired
    cap = ending.cap
    if ending.verdict is Verdict.DISK_FULL and desired is not Desired.CANCEL:
        text = (
            "The job is paused: the disk of the worker or of the storage is full; "
            "resumed once there is space it continues from its newest checkpoint"
        )
        return NewEvent(text, "warn", data={"code": DiskFull.code})
    if failure is not None:
        text = f"Attempt {claim.attempt} was lost: {failure.message}"
        return NewEvent(text, level="warn", data={"code": failure.code})
    if desired is Desired.CANCEL:
        return NewEvent("The job was cancelled")
    if desired is Desired.PAUSE:
        return NewEvent("The job is paused; resuming it continues from its newest checkpoint")
    if cap is not None:
        text = (
            f"The job is paused: {cap} of its budget is used up; "
            "with a higher cap it can be resumed"
        )
        data = {"code": "budget_exhausted", "param": f"falqon.budget.{cap.split()[0]}"}
        return NewEvent(text, "warn", data=data)
    if ending.verdict is Verdict.STORAGE_AWAY:
        text = (
            "The storage does not answer; the job waits for it in the queue "
            "and continues from its newest checkpoint"
        )
        return NewEvent(text, level="warn", data={"code": "storage_unavailable"})
    if is_preempted:
        return NewEvent(
            "The job has given its GPUs back; it waits in the queue "
            "and continues from its newest checkpoint"
        )
    return NewEvent(
        "The worker is being stopped; the job goes back to the queue "
        "and continues from its newest checkpoint"
    )
