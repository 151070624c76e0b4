"""Recording how an attempt ended that has no result: the job fails, pauses, or waits for the next
attempt.
"""

from sqlalchemy.orm import Session

from app.jobs import claims
from app.jobs.claims import Failure
from app.jobs.events import NewEvent
from app.models import Desired, JobStatus
from falqon_core.contract.errors import DiskFull
from worker.attempt.context import AttemptContext
from worker.attempt.outcome import Outcome, Verdict

# Failures of one attempt after the other at the same step: another attempt will not help. A kill
# from outside says nothing about the job.
POISON = {"trainer_crashed", "internal_error", "checkpoint_corrupt"}
POISON_SECONDS = 60.0


def record_outcome(
    attempt: AttemptContext, outcome: Outcome, *, has_trained: bool, trainer_log: str
) -> None:
    """Write how the attempt ended, with the end of the log of a trainer that failed. Raises
    `LeaseLost`.
    """
    cap = attempt.stop_policy.reached_cap()

    def write(session: Session) -> bool:
        if outcome.verdict is Verdict.FAILED:
            return _fail(session, attempt, outcome.failure, trainer_log)
        return _release(session, attempt, outcome, cap, has_trained, trainer_log)

    if not attempt.writer.write_with_retry(write):
        attempt.writer.raise_lease_lost()


def _fail(
    session: Session, attempt: AttemptContext, failure: Failure | None, trainer_log: str
) -> bool:
    assert failure is not None, "a failed job has a reason"
    event = NewEvent(
        f"The job has failed: {failure.message}",
        level="error",
        data={"code": failure.code, "param": failure.param},
    )
    return claims.finish(
        session,
        attempt.lease.claim,
        JobStatus.FAILED,
        _with_log(event, trainer_log),
        failure=failure,
        **attempt.progress.columns,
    )


def _release(
    session: Session,
    attempt: AttemptContext,
    outcome: Outcome,
    cap: str | None,
    has_trained: bool,
    trainer_log: str,
) -> bool:
    claim = attempt.lease.claim
    settings = attempt.worker.settings
    if outcome.verdict is Verdict.DISK_FULL:
        claims.pause(session, claim, DiskFull.code)
    elif cap is not None:
        claims.pause(session, claim, f"budget: {cap} is used up")
    max_infra_failures = settings.max_infra_failures
    # Before training the fault is this machine's, and another may do better.
    if has_trained and _ends_as_before(session, attempt, outcome.failure):
        max_infra_failures = 0
    return claims.release(
        session,
        claim,
        _with_log(_release_event(attempt, outcome, cap), trainer_log),
        counts_as_failure=outcome.verdict is Verdict.LOST,
        max_infra_failures=max_infra_failures,
        retry_seconds=settings.retry_delay.total_seconds(),
        failure=outcome.failure,
        **attempt.progress.columns,
    )


def _with_log(event: NewEvent, trainer_log: str) -> NewEvent:
    if not trainer_log:
        return event
    return event._replace(data={**(event.data or {}), "trainer_log": trainer_log})


def _ends_as_before(session: Session, attempt: AttemptContext, failure: Failure | None) -> bool:
    if failure is None or failure.code not in POISON:
        return False
    return claims.ends_as_before(session, attempt.lease.claim, failure.code, POISON_SECONDS)


def _release_event(attempt: AttemptContext, outcome: Outcome, cap: str | None) -> NewEvent:
    failure = outcome.failure
    desired = attempt.lease.desired
    if outcome.verdict is Verdict.DISK_FULL and desired is not Desired.CANCEL:
        text = (
            "The job is paused: the disk of the worker or of the storage is full; "
            "resumed once there is space it continues from its newest checkpoint"
        )
        return NewEvent(text, "warn", data={"code": DiskFull.code})
    if failure is not None:
        text = f"Attempt {attempt.job.attempt} was lost: {failure.message}"
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
    if outcome.verdict is Verdict.STORAGE_AWAY:
        text = (
            "The storage does not answer; the job waits for it in the queue "
            "and continues from its newest checkpoint"
        )
        return NewEvent(text, level="warn", data={"code": "storage_unavailable"})
    return NewEvent(
        "The worker is being stopped; the job goes back to the queue "
        "and continues from its newest checkpoint"
    )
