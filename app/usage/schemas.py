import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field, PlainSerializer

from app.usage.amounts import (
    FIELDS,
    QUESTION_FIELDS,
    DailyUsage,
    QuestionUsage,
    Span,
    begin_of,
)

CURSOR_PREFIX = "page_"
# First characters of a cell that a spreadsheet takes for a formula.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def _plain(amount: Decimal) -> str:
    """Write an amount without an exponent, which some programs do not read."""
    return f"{amount:f}"


class Amount(BaseModel):
    value: Annotated[
        Decimal, PlainSerializer(_plain, str, "json"), Field(description="a decimal string")
    ]
    currency: Literal["usd"] = "usd"


class UsageResult(BaseModel):
    """Usage of fine-tuning jobs and of models. Fields outside the grouping are null."""

    object: Literal["usage.fine_tuning.result"] = "usage.fine_tuning.result"
    amount: Amount
    device_seconds: float
    trained_tokens: Annotated[int, Field(description="by all attempts, repeated steps included")]
    num_jobs: Annotated[int, Field(description="jobs with usage on this day")]
    num_model_requests: Annotated[int, Field(description="requests to models")]
    input_tokens: Annotated[int, Field(description="tokens that models read")]
    output_tokens: Annotated[int, Field(description="tokens that models wrote")]
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
            num_model_requests=usage.num_requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            **{name: usage.group.get(name) for name in FIELDS},
        )


class QuestionResult(BaseModel):
    """Questions to models, as OpenAI's clients read them. Fields outside the grouping are null."""

    object: Literal["organization.usage.completions.result"] = (
        "organization.usage.completions.result"
    )
    amount: Annotated[Amount, Field(description="by the price of tokens")]
    num_model_requests: int
    input_tokens: int
    output_tokens: int
    project_id: str | None
    api_key_id: str | None
    model: str | None
    source: Annotated[
        str | None, Field(description="request, batch or evaluation; the last two have no price")
    ]

    @classmethod
    def of(cls, usage: QuestionUsage) -> Self:
        return cls(
            amount=Amount(value=usage.cost),
            num_model_requests=usage.num_requests,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            **{name: usage.group.get(name) for name in QUESTION_FIELDS},
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


Result = TypeVar("Result", UsageResult, CostResult, QuestionResult)


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
    def of(cls, results: Iterable[tuple[date, Result]], span: Span, limit: int) -> Self:
        """Make the page of the first days of `span`, a bucket a day."""
        first_days = span.first(limit)
        by_day: dict[date, list[Result]] = defaultdict(list)
        for day, result in results:
            by_day[day].append(result)
        buckets = [
            Bucket(
                start_time=begin_of(day),
                end_time=begin_of(day + timedelta(days=1)),
                results=by_day[day],
            )
            for day in first_days.days
        ]
        next_page = next_page_of(span, limit)
        return cls(data=buckets, has_more=next_page is not None, next_page=next_page)


def next_page_of(span: Span, limit: int) -> str | None:
    end = span.first(limit).end
    return f"{CURSOR_PREFIX}{begin_of(end)}" if end < span.end else None


AMOUNT_NAMES = (
    "cost_usd",
    "device_seconds",
    "trained_tokens",
    "num_jobs",
    "num_model_requests",
    "input_tokens",
    "output_tokens",
)


def to_csv(days: Iterable[Sequence[DailyUsage]], group_by: Sequence[str]) -> Iterator[str]:
    """Yield the header, and then a line for each group of each day; days without usage have
    none.
    """
    yield _lines([["day", *group_by, *AMOUNT_NAMES]])
    for rows in days:
        if rows:
            yield _lines(_cells(usage, group_by) for usage in rows)


def _cells(usage: DailyUsage, group_by: Sequence[str]) -> list[object]:
    group = [_as_text(usage.group[name]) for name in group_by]
    return [
        usage.day.isoformat(),
        *group,
        _plain(usage.cost),
        round(usage.device_seconds, 1),
        usage.tokens,
        usage.num_jobs,
        usage.num_requests,
        usage.input_tokens,
        usage.output_tokens,
    ]


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _as_text(name: str | None) -> str:
    """Keep a spreadsheet from evaluating a name that a user chose."""
    if name is None:
        return ""
    return f"'{name}" if name.startswith(FORMULAS) else name
