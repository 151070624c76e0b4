from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import insert_or
from app.models import Attempt, Job, UsageDay

# By the names that the API has for them.
GROUPS = {
    "project_id": UsageDay.project_id,
    "api_key_id": UsageDay.key_id,
    "model": UsageDay.base_model_id,
}
AMOUNTS = (
    func.sum(UsageDay.cost),
    func.sum(UsageDay.device_seconds),
    func.sum(UsageDay.tokens),
)


class Usage(NamedTuple):
    """What was used on a day, by whom as far as it was asked for: `group` holds the values of the
    fields of `GROUPS`.
    """

    day: date
    group: dict[str, str | None]
    cost: Decimal
    device_seconds: float
    tokens: int
    num_jobs: int


def book(session: Session, job_id: str, day: date) -> None:
    """Book on `day` what the job has used and no other day holds. Its row is locked by the caller,
    so the days of a job always add up to what the job itself says.
    """
    columns = (Job.project_id, Job.key_id, Job.base_model_id, Job.device_seconds, Job.progress)
    job = session.execute(select(*columns).where(Job.id == job_id)).one()
    tokens = session.scalar(select(func.sum(Attempt.tokens)).where(Attempt.job_id == job_id))
    accrued = job.progress.cost.accrued if job.progress and job.progress.cost else Decimal(0)
    other_days = select(*AMOUNTS).where(UsageDay.job_id == job_id, UsageDay.day != day)
    before = session.execute(other_days).one()
    amounts = {
        "cost": accrued - (before[0] or 0),
        "device_seconds": job.device_seconds - (before[1] or 0.0),
        "tokens": int(tokens or 0) - int(before[2] or 0),
    }
    row = {
        "job_id": job_id,
        "day": day,
        "project_id": job.project_id,
        "key_id": job.key_id,
        "base_model_id": job.base_model_id,
    }
    statement = insert_or(session, UsageDay).values(row | amounts)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[UsageDay.job_id, UsageDay.day], set_=amounts
        )
    )


def between(
    session: Session,
    project_id: str | None,
    begin: date,
    end: date,
    group_by: Sequence[str],
    limit: int,
) -> list[Usage]:
    """Return the sums of each day before `end`, the oldest first, the dearest group of a day
    first; a project of None restricts nothing.
    """
    groups = [GROUPS[name] for name in group_by]
    num_jobs = func.count(UsageDay.job_id.distinct())
    statement = (
        select(UsageDay.day, *AMOUNTS, num_jobs, *groups)
        .where(UsageDay.day >= begin, UsageDay.day < end)
        .group_by(UsageDay.day, *groups)
        .order_by(UsageDay.day, AMOUNTS[0].desc(), *groups)
        .limit(limit)
    )
    if project_id is not None:
        statement = statement.where(UsageDay.project_id == project_id)
    return [
        Usage(
            day,
            dict(zip(group_by, names, strict=True)),
            cost,
            device_seconds,
            int(tokens),
            num_jobs,
        )
        for day, cost, device_seconds, tokens, num_jobs, *names in session.execute(statement)
    ]
