import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field

from app.usage.amounts import FIELDS, DailyUsage, Span, begin_of

CURSOR_PREFIX = "page_"
# First characters of a cell that a spreadsheet takes for a formula.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class Amount(BaseModel):
    value: Annotated[Decimal, Field(description="a decimal string")]
    currency: Literal["usd"] = "usd"


class UsageResult(BaseModel):
    """Usage of fine-tuning jobs. Fields outside the grouping are null."""

    object: Literal["usage.fine_tuning.result"] = "usage.fine_tuning.result"
    amount: Amount
    device_seconds: float
    trained_tokens: Annotated[int, Field(description="by all attempts, repeated steps included")]
    num_jobs: Annotated[int, Field(description="jobs with usage on this day")]
    project_id: str | None
    api_key_id: Annotated[str | None, Field(description="the key that created the jobs")]
    model: Annotated[str | None, Field(description="the base model")]

    @classmethod
    def of(cls, usage: DailyUsage) -> Self:
        return cls(
            amount=Amount(value=usage.cost),
            device_seconds=round(usage.device_seconds, 1),
            trained_tokens=usage.tokens,
            num_jobs=usage.num_jobs,
            **{name: usage.group.get(name) for name in FIELDS},
        )


class CostAmount(BaseModel):
    value: Annotated[float, Field(description="a number, as OpenAI's clients read it")]
    currency: Literal["usd"] = "usd"


class CostResult(BaseModel):
    """Result as in OpenAI's API: `line_item` is the base model."""

    object: Literal["organization.costs.result"] = "organization.costs.result"
    amount: CostAmount
    line_item: str | None
    project_id: str | None
    api_key_id: str | None

    @classmethod
    def of(cls, usage: DailyUsage) -> Self:
        return cls(
            amount=CostAmount(value=float(usage.cost)),
            line_item=usage.group.get("model"),
            project_id=usage.group.get("project_id"),
            api_key_id=usage.group.get("api_key_id"),
        )


Result = TypeVar("Result", UsageResult, CostResult)


class Bucket(BaseModel, Generic[Result]):
    """One UTC day."""

    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[Result]


class BucketPage(BaseModel, Generic[Result]):
    object: Literal["page"] = "page"
    data: list[Bucket[Result]]
    has_more: bool
    next_page: Annotated[str | None, Field(description="the `page` of the next request")]

    @classmethod
    def of(cls, result: type[Result], rows: Sequence[DailyUsage], span: Span, limit: int) -> Self:
        """Make the page of the first days of `span`, a bucket a day."""
        first_days = span.first(limit)
        by_day: dict[date, list[Result]] = defaultdict(list)
        for usage in rows:
            by_day[usage.day].append(result.of(usage))
        buckets = [
            Bucket[Result](
                start_time=begin_of(day),
                end_time=begin_of(day + timedelta(days=1)),
                results=by_day[day],
            )
            for day in first_days.days
        ]
        next_page = (
            f"{CURSOR_PREFIX}{begin_of(first_days.end)}" if first_days.end < span.end else None
        )
        return cls(data=buckets, has_more=next_page is not None, next_page=next_page)


def to_csv(rows: Sequence[DailyUsage], group_by: Sequence[str]) -> str:
    """Write a line for each day and group, the oldest first; days without usage have none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ("cost_usd", "device_seconds", "trained_tokens", "num_jobs")
    writer.writerow(["day", *group_by, *names])
    for usage in rows:
        group = [_as_text(usage.group[name]) for name in group_by]
        amounts = (usage.cost, round(usage.device_seconds, 1), usage.tokens, usage.num_jobs)
        writer.writerow([usage.day.isoformat(), *group, *amounts])
    return text.getvalue()


def _as_text(name: str | None) -> str:
    """Keep a spreadsheet from evaluating a name that a user chose."""
    if name is None:
        return ""
    return f"'{name}" if name.startswith(FORMULAS) else name
