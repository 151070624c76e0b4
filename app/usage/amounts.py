from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

QUESTION_FIELDS = ("project_id", "api_key_id", "model", "source")
FIELDS = ("project_id", "api_key_id", "model")  # dimensions of usage, as the API names them


class DailyUsage(NamedTuple):
    """Usage of a day in one group: `group` holds the values of these `FIELDS`."""

    day: date
    group: dict[str, str | None]
    cost: Decimal  # of jobs and of questions
    device_seconds: float
    tokens: int  # trained
    num_jobs: int
    num_requests: int = 0  # to models
    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, other: "DailyUsage") -> "DailyUsage":
        """Return the sum, of the later day."""
        return DailyUsage(
            max(self.day, other.day),
            self.group,
            self.cost + other.cost,
            self.device_seconds + other.device_seconds,
            self.tokens + other.tokens,
            self.num_jobs + other.num_jobs,
            self.num_requests + other.num_requests,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


class QuestionUsage(NamedTuple):
    """Questions of a day in one group."""

    day: date
    group: dict[str, str | None]
    num_requests: int
    input_tokens: int
    output_tokens: int
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Span:
    """The days from `begin` to the one before `end`."""

    begin: date
    end: date

    def each(self) -> Iterator["Span"]:
        """Yield a span for each day."""
        for day in self.days:
            yield Span(day, day + timedelta(days=1))

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


def begin_of(day: date) -> int:
    """Return the first second of the day, since 1970."""
    return int(datetime.combine(day, time(), UTC).timestamp())
