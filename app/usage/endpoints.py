from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from app.base.errors import InvalidRequest
from app.http.dependencies import Reader, ServicesDep
from app.http.routes import ApiRoute
from app.usage import service
from app.usage.amounts import FIELDS, QUESTION_FIELDS
from app.usage.schemas import (
    BucketPage,
    CostResult,
    QuestionResult,
    UsageResult,
    next_page_of,
    to_csv,
)
from app.usage.service import LATEST_TIME, MAX_DAYS, Period

LINE_ITEM = "line_item"  # OpenAI's name for the object of a cost; here the base model

router = APIRouter(prefix="/v1", tags=["usage"], route_class=ApiRoute)


async def _period(
    start_time: Annotated[
        int,
        Query(
            ge=1,
            le=LATEST_TIME,
            description="seconds since 1970; the UTC day it lies in is the first",
        ),
    ],
    end_time: Annotated[
        int | None, Query(ge=1, le=LATEST_TIME, description="exclusive; now when left out")
    ] = None,
    bucket_width: Annotated[Literal["1d"], Query()] = "1d",
    limit: Annotated[int, Query(ge=1, le=MAX_DAYS, description="buckets per page")] = 7,
    page: Annotated[
        str | None, Query(description="`next_page` of the answer before", max_length=256)
    ] = None,
) -> Period:
    return Period(start_time, end_time, limit, page)


PeriodDep = Annotated[Period, Depends(_period)]
# OpenAI's clients put brackets behind the names of lists.
Bracketed = Annotated[list[str], Query(alias="group_by[]", max_length=8, include_in_schema=False)]


@router.get(
    "/usage",
    responses={200: {"content": {"text/csv": {}}}},
    response_model=BucketPage[UsageResult],
)
def retrieve_usage(
    services: ServicesDep,
    caller: Reader,
    period: PeriodDep,
    group_by: Annotated[
        list[str] | None, Query(max_length=8, description=f"any of {', '.join(FIELDS)}")
    ] = None,
    bracketed: Bracketed = [],  # noqa: B006  # FastAPI copies it
    format: Annotated[
        Literal["json", "csv"] | None, Query(description="csv: as with `Accept: text/csv`")
    ] = None,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
) -> Any:
    """Return the usage by UTC day: cost, device seconds and trained tokens of all attempts, running
    ones too, and of jobs that were deleted since; requests to models and their tokens. A key sees
    its project, an admin key of the default project all of them.
    """
    fields = _parse_fields([*(group_by or []), *bracketed], FIELDS)
    if format == "csv" or (format is None and "text/csv" in accept):
        span = service.find_span(services, period)
        days = service.stream_days(services, caller, span.first(period.limit), fields)
        next_page = next_page_of(span, period.limit)
        more = {"x-next-page": next_page} if next_page else {}
        return StreamingResponse(to_csv(days, fields), media_type="text/csv", headers=more)
    span, rows = service.read_usage(services, caller, period, fields)
    results = ((usage.day, UsageResult.of(usage)) for usage in rows)
    return BucketPage[UsageResult].of(results, span, period.limit)


@router.get("/organization/usage/completions")
def retrieve_completions_usage(
    services: ServicesDep,
    caller: Reader,
    period: PeriodDep,
    group_by: Annotated[
        list[str] | None, Query(max_length=8, description=f"any of {', '.join(QUESTION_FIELDS)}")
    ] = None,
    bracketed: Bracketed = [],  # noqa: B006  # FastAPI copies it
) -> BucketPage[QuestionResult]:
    """Return requests to models, those of batches and evaluations too, and their tokens, as
    OpenAI's `client.admin.organization.usage.completions` reads them.
    """
    fields = _parse_fields([*(group_by or []), *bracketed], QUESTION_FIELDS)
    span, rows = service.read_questions(services, caller, period, fields)
    results = ((usage.day, QuestionResult.of(usage)) for usage in rows)
    return BucketPage[QuestionResult].of(results, span, period.limit)


@router.get("/organization/costs")
def retrieve_costs(
    services: ServicesDep,
    caller: Reader,
    period: PeriodDep,
    group_by: Annotated[
        list[str] | None,
        Query(max_length=8, description="any of project_id, api_key_id, line_item"),
    ] = None,
    bracketed: Bracketed = [],  # noqa: B006  # FastAPI copies it
) -> BucketPage[CostResult]:
    """Return the cost alone, as OpenAI's `client.admin.organization.usage.costs` reads it."""
    possible = ("project_id", "api_key_id", LINE_ITEM)
    fields = _parse_fields([*(group_by or []), *bracketed], possible)
    span, rows = service.read_usage(
        services, caller, period, ["model" if field == LINE_ITEM else field for field in fields]
    )
    results = ((usage.day, CostResult.of(usage)) for usage in rows)
    return BucketPage[CostResult].of(results, span, period.limit)


def _parse_fields(names: Sequence[str], possible: Sequence[str]) -> list[str]:
    if unknown := sorted(set(names) - set(possible)):
        raise InvalidRequest(
            f"group_by: there is no '{unknown[0]}'; there are {', '.join(possible)}.",
            param="group_by",
        )
    return [name for name in possible if name in names]
