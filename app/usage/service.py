"""Use cases of usage; each function is one unit of work."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import now
from app.base.errors import InvalidRequest
from app.services import Services
from app.usage import repository
from app.usage.amounts import DailyUsage, QuestionUsage, Span
from app.usage.repository import cost_of_key as cost_of_key
from app.usage.repository import dearest as dearest
from app.usage.schemas import CURSOR_PREFIX

MAX_DAYS = 180  # of a page
MAX_RESULTS = 10_000  # of a page
LATEST_TIME = 32_503_680_000  # the year 3000
CURSOR_PATTERN = re.compile(f"{CURSOR_PREFIX}([0-9]{{1,11}})")


class Period(NamedTuple):
    """Requested days, by seconds since 1970, and the number of them per page."""

    start_time: int
    end_time: int | None  # exclusive; of None it is now
    limit: int
    page: str | None


def read_usage(
    services: Services, caller: Caller, period: Period, group_by: Sequence[str]
) -> tuple[Span, list[DailyUsage]]:
    """Return the days of the period, and the usage on those of its page; an admin of the
    installation sees every project.
    """
    with services.database.read() as session:
        span = _span_of(session, period)
        days = span.first(period.limit)
        return span, read(session, caller.administered_project, days, group_by)


def read_questions(
    services: Services, caller: Caller, period: Period, group_by: Sequence[str]
) -> tuple[Span, list[QuestionUsage]]:
    """Return the same of questions to models."""
    with services.database.read() as session:
        span = _span_of(session, period)
        rows = repository.questions_between(
            session,
            caller.administered_project,
            span.first(period.limit),
            group_by,
            limit=MAX_RESULTS + 1,
        )
    _check_number(rows)
    return span, rows


def find_span(services: Services, period: Period) -> Span:
    """Return the days of the period."""
    with services.database.read() as session:
        return _span_of(session, period)


def stream_days(
    services: Services, caller: Caller, span: Span, group_by: Sequence[str]
) -> Iterator[list[DailyUsage]]:
    """Yield the usage day by day, whatever its length. No transaction waits for a reader."""
    project_id = caller.administered_project
    for day in span.each():
        with services.database.read() as session:
            rows = repository.between(session, project_id, day, group_by, limit=None)
        yield rows


def _span_of(session: Session, period: Period) -> Span:
    begin = _moment(period.start_time)
    end = now(session) if period.end_time is None else _moment(period.end_time)
    if period.end_time is not None and end <= begin:
        raise InvalidRequest(
            "end_time: it must be later than start_time; leave it out for now.",
            param="end_time",
        )
    # Whole days: the one that `end` lies in is there, unless it has not begun.
    last = (end - timedelta(microseconds=1)).date()
    span = Span(begin.date(), max(last, begin.date()) + timedelta(days=1))
    return span if period.page is None else Span(_first_day(period.page, span), span.end)


def _first_day(page: str, span: Span) -> date:
    cursor = CURSOR_PATTERN.fullmatch(page)
    moment = _moment(min(int(cursor[1]), LATEST_TIME)) if cursor else None
    if moment is None or not span.begin <= moment.date() < span.end:
        raise InvalidRequest(
            f"page: '{page}' is not the next_page of this request.",
            param="page",
            code="invalid_cursor",
        )
    return moment.date()


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def read(
    session: Session, project_id: str | None, span: Span, group_by: Sequence[str] = ()
) -> list[DailyUsage]:
    """Return the sums of each day and group; a project of None restricts nothing."""
    rows = repository.between(session, project_id, span, group_by, limit=MAX_RESULTS + 1)
    _check_number(rows)
    return rows


def _check_number(rows: Sequence[object]) -> None:
    if len(rows) > MAX_RESULTS:
        raise InvalidRequest(
            f"group_by: these days have more than {MAX_RESULTS} results; "
            "ask for fewer days with `limit`, for fewer fields, or for CSV.",
            param="group_by",
        )
