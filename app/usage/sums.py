"""Usage by day, project, key and model: sums of the days that are over, and of the rows of jobs for
those that are not summed yet. Usage is booked on the day of its transaction alone, so a day that
has been over for a while does not change.
"""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import QueryableAttribute, Session, aliased

from app.base.database import UNSYNCED, Database, now
from app.models import Installation, QuestionDay, UsageDay, UsageSum
from app.models.reported import MAX_FLOAT
from app.models.usage_day import MAX_DOLLARS, Dollars, NanoDollars
from app.usage.amounts import Span

MAX_TOKENS = 10**12  # per job and day
DAYS_AT_ONCE = 100  # summed in a call, which is repeated some seconds later
LATE = timedelta(hours=1)  # no transaction lasts that long
FIRST = date(1970, 1, 1)


def bounded_sum(column: QueryableAttribute[Any], most: Decimal | float) -> ColumnElement[Any]:
    """Return a sum that no row can let overflow, independently of the worker's report."""
    high, low = (literal(bound, column.type) for bound in (most, -most))
    return func.sum(case((column > high, high), (column < low, low), else_=column))


AMOUNTS_OF_JOBS = (
    bounded_sum(UsageDay.cost, MAX_DOLLARS),
    bounded_sum(UsageDay.device_seconds, MAX_FLOAT),
    bounded_sum(UsageDay.tokens, MAX_TOKENS),
)


def sum_days(database: Database) -> int:
    """Sum days that are over and return how many; a day is summed in one transaction."""
    for count in range(DAYS_AT_ONCE):
        with database.read() as session:
            summed_until = session.scalar(select(Installation.usage_summed_until))
            day = _next_day(session, summed_until or FIRST)
        if day is None:
            return count
        with database.transaction() as session:
            if not _sum_day(session, day, summed_until):
                return count
    return DAYS_AT_ONCE


def _next_day(session: Session, begin: date) -> date | None:
    """Return the first day with usage that can be summed and is not."""
    end = (now(session) - LATE).date()
    return session.scalar(select(func.min(UsageDay.day)).where(*_within(UsageDay, begin, end)))


def _sum_day(session: Session, day: date, summed_until: date | None) -> bool:
    """Sum the first day that is not; return False if another process has summed since."""
    moved = session.execute(
        update(Installation)
        .where(Installation.usage_summed_until.is_not_distinct_from(summed_until))
        .values(usage_summed_until=day + timedelta(days=1)),
        execution_options=UNSYNCED,
    )
    if not moved.rowcount:  # type: ignore[attr-defined]
        return False
    session.execute(delete(UsageSum).where(UsageSum.day >= day), execution_options=UNSYNCED)
    of_day = _of_jobs(UsageDay.day == day, with_begun=True)
    names = [column.name for column in UsageSum.__table__.columns]
    session.execute(insert(UsageSum).from_select(names, of_day))
    return True


def daily(
    session: Session, project_id: str | None, span: Span, *, with_begun: bool = False
) -> FromClause:
    """Return the usage of these days, by day, project, key and base model; a project of None
    restricts nothing. Whether a job has begun is looked up only on request.
    """
    summed_until = _summed_until(session)
    nothing = [literal(0, BigInteger).label(name) for name in ("requests", "input", "output")]
    no_cost = literal(Decimal(0), NanoDollars).label("question_cost")
    sums = select(*UsageSum.__table__.columns, *nothing, no_cost).where(
        *_of_project(UsageSum, project_id),
        *_within(UsageSum, span.begin, min(span.end, summed_until)),
    )
    jobs = _of_jobs(
        *_of_project(UsageDay, project_id),
        *_within(UsageDay, max(span.begin, summed_until), span.end),
        with_begun=with_begun,
    ).add_columns(*nothing, no_cost)
    questions = select(
        QuestionDay.day,
        QuestionDay.project_id,
        QuestionDay.key_id,
        QuestionDay.base_model_id,
        literal(Decimal(0), Dollars),
        literal(0.0),
        literal(0, BigInteger),
        literal(0, Integer),
        literal(0, Integer),
        QuestionDay.requests,
        QuestionDay.input_tokens,
        QuestionDay.output_tokens,
        QuestionDay.cost,
    ).where(*_of_project(QuestionDay, project_id), *_within(QuestionDay, span.begin, span.end))
    return union_all(sums, jobs, questions).subquery()


def _of_jobs(*conditions: ColumnElement[bool], with_begun: bool) -> Select[Any]:
    """Return sums of the rows of jobs, with the columns of `UsageSum`."""
    earlier = aliased(UsageDay)
    has_begun = exists().where(earlier.job_id == UsageDay.job_id, earlier.day < UsageDay.day)
    key_id = func.coalesce(UsageDay.key_id, "").label("key_id")
    groups = (UsageDay.day, UsageDay.project_id, key_id, UsageDay.base_model_id)
    num_begun = func.sum(case((has_begun, 0), else_=1)) if with_begun else literal(0, Integer)
    return (
        select(*groups, *AMOUNTS_OF_JOBS, func.count(), num_begun)
        .where(*conditions)
        .group_by(UsageDay.day, UsageDay.project_id, UsageDay.key_id, UsageDay.base_model_id)
    )


def _summed_until(session: Session) -> date:
    return session.scalar(select(Installation.usage_summed_until)) or FIRST


def _within(table: Any, begin: date, end: date) -> tuple[ColumnElement[bool], ...]:
    return (table.day >= begin, table.day < end)


def _of_project(table: Any, project_id: str | None) -> tuple[ColumnElement[bool], ...]:
    return () if project_id is None else (table.project_id == project_id,)
