from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, FromClause, func, select, type_coerce
from sqlalchemy.orm import Session

from app.base.database import insert_or
from app.models import Attempt, Job, QuestionDay, UsageDay
from app.usage.amounts import DailyUsage, QuestionUsage, Span
from app.usage.sums import AMOUNTS_OF_JOBS, MAX_TOKENS, bounded_sum, daily

# Columns by the names in the API.
GROUPS = {"project_id": "project_id", "api_key_id": "key_id", "model": "base_model_id"}
GROUPS_OF_QUESTIONS = {
    "project_id": QuestionDay.project_id,
    "api_key_id": QuestionDay.key_id,
    "model": QuestionDay.model_id,
    "source": QuestionDay.source,
}
NANOS = 100_000  # parts of a hundredth of a cent


class Amounts(NamedTuple):
    cost: Decimal
    device_seconds: float
    tokens: int  # trained


def book(session: Session, job_id: str, day: date) -> None:
    """Book on `day` the job's usage that no other day holds. Its row is locked by the caller, so
    the days of a job always add up to the job's own total.
    """
    columns = (Job.project_id, Job.key_id, Job.base_model_id, Job.device_seconds, Job.progress)
    job = session.execute(select(*columns).where(Job.id == job_id)).one()
    tokens = session.scalar(
        select(bounded_sum(Attempt.tokens, MAX_TOKENS)).where(Attempt.job_id == job_id)
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
    """Book on `day` what no other day holds of the total of a job, of a batch, or of an evaluation
    that another key than the job's asked for.
    """
    other_days = select(*AMOUNTS_OF_JOBS).where(UsageDay.job_id == job_id, UsageDay.day != day)
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
    session: Session,
    project_id: str | None,
    span: Span,
    group_by: Sequence[str],
    limit: int | None,
) -> list[DailyUsage]:
    """Return the sums of each day, the oldest first, the most expensive group of a day
    first; a project of None restricts nothing, nor does a limit of None.
    """
    rows = daily(session, project_id, span)
    groups = [rows.c[GROUPS[name]] for name in group_by]
    statement = (
        select(rows.c.day, *_amounts(rows), func.sum(rows.c.num_jobs), *groups)
        .group_by(rows.c.day, *groups)
        .order_by(rows.c.day, _whole_cost(rows).desc(), *groups)
        .limit(limit)
    )
    return [_read(row, group_by) for row in session.execute(statement)]


def dearest(
    session: Session, project_id: str | None, span: Span, fields: Sequence[str], limit: int
) -> dict[str, list[DailyUsage]]:
    """Return the sums of all these days by each of the fields, the most expensive first; their day
    is the last one with usage, and the jobs those that have begun.
    """
    rows = daily(session, project_id, span, with_begun=True)
    groups = [rows.c[GROUPS[field]] for field in fields]
    # Read once for all fields: jobs of the days that are not summed are looked up one by one.
    statement = select(
        func.max(rows.c.day), *_amounts(rows), func.sum(rows.c.num_begun), *groups
    ).group_by(*groups)
    usages = [_read(row, fields) for row in session.execute(statement)]
    return {field: _dearest_of(usages, field)[:limit] for field in fields}


def _dearest_of(usages: Sequence[DailyUsage], field: str) -> list[DailyUsage]:
    sums: dict[str | None, DailyUsage] = {}
    for usage in usages:
        name = usage.group[field]
        own = usage._replace(group={field: name})
        sums[name] = sums[name].plus(own) if name in sums else own
    return sorted(sums.values(), key=lambda usage: (-usage.cost, usage.group[field] or ""))


def questions_between(
    session: Session, project_id: str | None, span: Span, group_by: Sequence[str], limit: int
) -> list[QuestionUsage]:
    """Return the questions of each day, the oldest first, the most tokens of a day first."""
    groups = [GROUPS_OF_QUESTIONS[name] for name in group_by]
    columns = (
        QuestionDay.requests,
        QuestionDay.input_tokens,
        QuestionDay.output_tokens,
        QuestionDay.cost,
    )
    within = [QuestionDay.day >= span.begin, QuestionDay.day < span.end]
    if project_id is not None:
        within.append(QuestionDay.project_id == project_id)
    num_tokens = func.sum(QuestionDay.input_tokens + QuestionDay.output_tokens)
    statement = (
        select(QuestionDay.day, *map(func.sum, columns), *groups)
        .where(*within)
        .group_by(QuestionDay.day, *groups)
        .order_by(QuestionDay.day, num_tokens.desc(), *groups)
        .limit(limit)
    )
    return [_read_questions(row, group_by) for row in session.execute(statement)]


def cost_of_key(session: Session, project_id: str, key_id: str, day: date) -> Decimal:
    """Return the cost, on one day, of the jobs and batches that a key has created, and of the
    evaluations that it has asked for.
    """
    mine = (UsageDay.project_id == project_id, UsageDay.key_id == key_id, UsageDay.day == day)
    cost = session.scalar(select(AMOUNTS_OF_JOBS[0]).where(*mine))
    return cost or Decimal(0)


def _amounts(rows: FromClause) -> list[ColumnElement[Any]]:
    names = ("cost", "question_cost", "device_seconds", "tokens", "requests", "input", "output")
    return [func.sum(rows.c[name]) for name in names]


def _whole_cost(rows: FromClause) -> ColumnElement[Any]:
    jobs, questions = (func.sum(rows.c[name]) for name in ("cost", "question_cost"))
    return type_coerce(jobs, BigInteger) * NANOS + type_coerce(questions, BigInteger)


def _read(row: Sequence[Any], group_by: Sequence[str]) -> DailyUsage:
    day, cost, question_cost, device_seconds, *counts = row
    tokens, requests, read, written, num_jobs, *names = counts
    return DailyUsage(
        day,
        _group(group_by, names),
        cost + question_cost if question_cost else cost,
        device_seconds,
        int(tokens),
        int(num_jobs),
        int(requests),
        int(read),
        int(written),
    )


def _read_questions(row: Sequence[Any], group_by: Sequence[str]) -> QuestionUsage:
    day, requests, read, written, cost, *names = row
    group = _group(group_by, names)
    return QuestionUsage(day, group, int(requests), int(read), int(written), cost)


def _group(group_by: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """Return the names of a group; a key that was not recorded has none."""
    return {field: name or None for field, name in zip(group_by, names, strict=True)}
