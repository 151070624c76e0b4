from enum import IntEnum
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.database import now
from app.catalogue import service as catalogue
from app.http.dependencies import ServicesDep
from app.jobs import listing
from app.keys import service as keys
from app.models import JobStatus, Scope
from app.projects import service as projects
from app.projects.schemas import ProjectObject
from app.services import Services
from app.usage import schemas, service
from app.usage.amounts import FIELDS, Span
from app.web.headers import attachment
from app.web.rendering import page
from app.web.usage_view import alerts_of, bars_of, scale_of, totals_of
from app.web.visitor import PageRouter, Visitor
from app.workers import service as workers

MAX_TABLE_ROWS = 20  # Rows of each table; the CSV has them all.
MAX_NAMES = 1000  # Names of keys and projects; others show their ids.
MAX_LIMITED_PROJECTS = 50  # Projects whose limits an admin of the installation is warned of.


class UsageDays(IntEnum):
    """Days up to today."""

    WEEK = 7
    MONTH = 30
    QUARTER = 90


router = PageRouter()


@router.get("/usage")
def usage_page(
    services: ServicesDep, request: Request, caller: Visitor, days: UsageDays = UsageDays.MONTH
) -> Response:
    with services.database.read() as session:
        span = Span.until(now(session).date(), days)
        amounts = _amounts(session, caller, span)
        model_ids = [usage.group["model"] for usage in amounts["tables"]["model"]]
        models = catalogue.present(session, caller.project_id, [id_ for id_ in model_ids if id_])
        by_status = listing.count_by_status(session, caller.project_id)
        history = workers.history(session, caller.administered_project, span.begin, MAX_TABLE_ROWS)
    own = projects.retrieve_project(services, caller, caller.project_id)
    return page(
        request,
        "usage/page.html",
        caller,
        **amounts,
        days=days.value,
        ranges=[each.value for each in UsageDays],
        own=own,
        alerts=alerts_of(_limited_projects(services, caller, own)),
        num_running=by_status.get(JobStatus.RUNNING, 0),
        num_queued=by_status.get(JobStatus.QUEUED, 0),
        history=history,
        history_jobs=workers.HISTORY_JOBS,
        models=models,
        names=_names(services, caller),
    )


@router.get("/usage/table.csv")
def usage_csv(
    services: ServicesDep, caller: Visitor, days: UsageDays = UsageDays.MONTH
) -> Response:
    """Send each day by project, key and model."""
    fields = list(FIELDS)
    with services.database.read() as session:
        span = Span.until(now(session).date(), days)
    rows = service.stream_days(services, caller, span, fields)
    headers = attachment(f"usage-{span.begin}.csv")
    return StreamingResponse(schemas.to_csv(rows, fields), media_type="text/csv", headers=headers)


def _amounts(session: Session, caller: Caller, span: Span) -> dict[str, Any]:
    project_id = caller.administered_project
    rows = service.read(session, project_id, span)
    scale = scale_of(rows)
    bars = bars_of(rows, span, scale)
    fields = ["api_key_id", "model"]
    if project_id is None:
        fields.insert(0, "project_id")
    return {
        "bars": bars,
        "scale": scale,
        "totals": totals_of(bars),
        "tables": service.dearest(session, project_id, span, fields, MAX_TABLE_ROWS),
    }


def _limited_projects(
    services: Services, caller: Caller, own: ProjectObject
) -> list[ProjectObject]:
    if caller.administered_project is not None:
        return [own]
    return projects.list_limited(services, caller, limit=MAX_LIMITED_PROJECTS)


def _names(services: Services, caller: Caller) -> dict[str, str]:
    """Return the names of projects and keys by their ids, for who may see them."""
    if caller.scope is not Scope.ADMIN:
        return {}
    its_projects = projects.list_projects(services, caller, limit=MAX_NAMES).data
    its_keys = keys.list_keys(services, caller, limit=MAX_NAMES).data
    return {each.id: each.name for each in its_projects} | {each.id: each.name for each in its_keys}
