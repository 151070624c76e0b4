from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, case, func, literal, select
from sqlalchemy.orm import QueryableAttribute, Session

from app.base.database import insert_or
from app.models import Attempt, Job, UsageDay
from app.models.reported import MAX_FLOAT
from app.models.usage_day import MAX_DOLLARS
from app.usage.amounts import DailyUsage, Span

# Columns by the names in the API.
GROUPS = {
    "project_id": UsageDay.project_id,
    "api_key_id": UsageDay.key_id,
    "model": UsageDay.base_model_id,
}
MAX_TOKENS = 10**12  # per job and day


class Amounts(NamedTuple):
    cost: Decimal
    device_seconds: float
    tokens: int  # trained


def _sum(column: QueryableAttribute[Any], most: Decimal | float) -> ColumnElement[Any]:
    """Return a sum that no row can let overflow, independently of the worker's report."""
    high, low = (literal(bound, column.type) for bound in (most, -most))
    return func.sum(case((column > high, high), (column < low, low), else_=column))


AMOUNTS = (
    _sum(UsageDay.cost, MAX_DOLLARS),
    _sum(UsageDay.device_seconds, MAX_FLOAT),
    _sum(UsageDay.tokens, MAX_TOKENS),
)


def book(session: Session, job_id: str, day: date) -> None:
    """Book on `day` the job's usage that no other day holds. Its row is locked by the caller, so
    the days of a job always add up to the job's own total.
    """
    columns = (Job.project_id, Job.key_id, Job.base_model_id, Job.device_seconds, Job.progress)
    job = session.execute(select(*columns).where(Job.id == job_id)).one()
    tokens = session.scalar(
        select(_sum(Attempt.tokens, MAX_TOKENS)).where(Attempt.job_id == job_id)
    )
    accrued = job.progress.cost.accrued if job.progress and job.progress.cost else Decimal(0)
    total = Amounts(accrued, job.device_seconds, int(tokens or 0))
    book_total(session, job_id, day, job.project_id, job.key_id, job.base_model_id, total)


def book_total(
    session: Session,
    job_id: str,
    day: date,
    project_id: str,
    key_id: str | None,
    base_model_id: str,
    total: Amounts,
) -> None:
    """Book on `day` what no other day holds of the total of a job, or of a batch."""
    other_days = select(*AMOUNTS).where(UsageDay.job_id == job_id, UsageDay.day != day)
    before = session.execute(other_days).one()
    amounts = {
        "cost": total.cost - (before[0] or 0),
        "device_seconds": total.device_seconds - (before[1] or 0.0),
        "tokens": total.tokens - int(before[2] or 0),
    }
    row = {
        "job_id": job_id,
        "day": day,
        "project_id": project_id,
        "key_id": key_id,
        "base_model_id": base_model_id,
    }
    statement = insert_or(session, UsageDay).values(row | amounts)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[UsageDay.job_id, UsageDay.day], set_=amounts
        )
    )


def between(
    session: Session, project_id: str | None, span: Span, group_by: Sequence[str], limit: int
) -> list[DailyUsage]:
    """Return the sums of each day, the oldest first, the most expensive group of a day
    first; a project of None restricts nothing.
    """
    groups = [GROUPS[name] for name in group_by]
    num_jobs = func.count()  # a job has one row of a day
    statement = (
        select(UsageDay.day, *AMOUNTS, num_jobs, *groups)
        .where(*_within(project_id, span))
        .group_by(UsageDay.day, *groups)
        .order_by(UsageDay.day, AMOUNTS[0].desc(), *groups)
        .limit(limit)
    )
    return [_read(row, group_by) for row in session.execute(statement)]


def dearest(
    session: Session, project_id: str | None, span: Span, field: str, limit: int
) -> list[DailyUsage]:
    """Return the sums of all these days by one field, the most expensive first; their day is the
    last one with usage.
    """
    # Grouped by job first, which has one key, model and project: to count distinct jobs, all rows
    # were sorted.
    jobs = (
        select(func.max(GROUPS[field]), func.max(UsageDay.day), *AMOUNTS)
        .where(*_within(project_id, span))
        .group_by(UsageDay.job_id)
        .subquery()
    )
    group, latest, cost, device_seconds, tokens = jobs.c
    amounts = (func.sum(cost), func.sum(device_seconds), func.sum(tokens))
    statement = (
        select(func.max(latest), *amounts, func.count(), group)
        .group_by(group)
        .order_by(amounts[0].desc(), group)
        .limit(limit)
    )
    return [_read(row, [field]) for row in session.execute(statement)]


def cost_of_key(session: Session, project_id: str, key_id: str, day: date) -> Decimal:
    """Return the cost, on one day, of the jobs that a key has created."""
    of_day = _within(project_id, Span(day, day + timedelta(days=1)))
    cost = session.scalar(select(AMOUNTS[0]).where(*of_day, UsageDay.key_id == key_id))
    return cost or Decimal(0)


def _within(project_id: str | None, span: Span) -> list[ColumnElement[bool]]:
    within = [UsageDay.day >= span.begin, UsageDay.day < span.end]
    return within if project_id is None else [*within, UsageDay.project_id == project_id]


def _read(row: Sequence[Any], group_by: Sequence[str]) -> DailyUsage:
    day, cost, device_seconds, tokens, num_jobs, *names = row
    group = dict(zip(group_by, names, strict=True))
    return DailyUsage(day, group, cost, device_seconds, int(tokens), num_jobs)
