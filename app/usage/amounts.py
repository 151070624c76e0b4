from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import NamedTuple

FIELDS = ("project_id", "api_key_id", "model")  # dimensions of usage, as the API names them


class DailyUsage(NamedTuple):
    """Usage of a day in one group: `group` holds the values of these `FIELDS`."""

    day: date
    group: dict[str, str | None]
    cost: Decimal
    device_seconds: float
    tokens: int
    num_jobs: int


@dataclass(frozen=True, slots=True)
class Span:
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


def begin_of(day: date) -> int:
    """Return the first second of the day, since 1970."""
    return int(datetime.combine(day, time(), UTC).timestamp())
