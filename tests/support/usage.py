"""What a worker reports of a job, on a day that the test chooses."""

from datetime import date
from decimal import Decimal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.jobs import claims
from app.jobs.claims import Claim
from app.models import Installation, Job
from app.models.job_progress import JobProgress
from app.usage import repository as usage
from tests.support.job_columns import cost


def report(
    session: Session, claim: Claim, day: date, accrued: str, device_seconds: float, tokens: int
) -> None:
    """Say what the job has used in all, and of it the tokens of this attempt."""
    session.execute(select(Installation.number).with_for_update())  # no day is summed meanwhile
    progress = JobProgress(cost=cost(accrued))
    assert claims.append_events(
        session, claim, [], progress=progress, device_seconds=device_seconds
    )
    claims.update_attempt(session, claim, tokens=tokens)
    usage.book(session, claim.job_id, day)
    # A service books on no day that is over, so the sums of this one have to be made again.
    session.execute(
        update(Installation)
        .where(Installation.usage_summed_until > day)
        .values(usage_summed_until=day)
    )


def accrued_by(session: Session, *job_ids: str) -> Decimal:
    """Return what the jobs themselves say that they cost."""
    jobs = [session.get_one(Job, job_id) for job_id in job_ids]
    return sum(
        (job.progress.cost.accrued for job in jobs if job.progress and job.progress.cost),
        Decimal(0),
    )
