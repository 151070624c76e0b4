"""What jobs have used, by UTC day. Free of the web framework: workers book it.

A worker reports every few seconds, and what it reports counts for the day on which it does.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.base.errors import InvalidRequest
from app.usage import repository
from app.usage.amounts import Usage

MAX_DAYS = 180  # of a page
MAX_RESULTS = 10_000  # of a page


class Span(NamedTuple):
    """The days from `begin` to the one before `end`."""

    begin: date
    end: date

    def first(self, num_days: int) -> "Span":
        return Span(self.begin, min(self.end, self.begin + timedelta(days=num_days)))

    @classmethod
    def until(cls, last: date, num_days: int) -> "Span":
        return cls(last - timedelta(days=num_days - 1), last + timedelta(days=1))

    @property
    def days(self) -> list[date]:
        return [
            self.begin + timedelta(days=number) for number in range((self.end - self.begin).days)
        ]


def book(session: Session, job_id: str, day: date) -> None:
    repository.book(session, job_id, day)


def read(
    session: Session, project_id: str | None, span: Span, group_by: Sequence[str] = ()
) -> list[Usage]:
    """Return the sums of each day and group; a project of None restricts nothing."""
    rows = repository.between(
        session, project_id, span.begin, span.end, group_by, limit=MAX_RESULTS + 1
    )
    if len(rows) > MAX_RESULTS:
        raise InvalidRequest(
            f"group_by: these days have more than {MAX_RESULTS} results; "
            "ask for fewer days with `limit`, or for fewer fields.",
            param="group_by",
        )
    return rows


def dearest(
    session: Session, project_id: str | None, span: Span, field: str, limit: int
) -> list[Usage]:
    """Return the sums of the whole span by one field, the dearest first."""
    return repository.dearest(session, project_id, span.begin, span.end, field, limit)


def begin_of(day: date) -> int:
    """Return the first second of the day, since 1970."""
    return int(datetime.combine(day, time(), UTC).timestamp())
