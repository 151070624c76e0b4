from typing import Annotated

from fastapi import APIRouter, Query

from app.audit_logs import service
from app.audit_logs.schemas import AuditLogObject
from app.http.dependencies import Admin, After, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute

MAX_VALUES = 20  # per filter
Values = Annotated[list[str], Query(max_length=MAX_VALUES)]

router = APIRouter(prefix="/v1/organization", tags=["projects and keys"], route_class=ApiRoute)


def _bracketed(name: str) -> object:
    """Rename list parameters: OpenAI's clients put brackets behind their names."""
    return Query(alias=f"{name}[]", max_length=MAX_VALUES, include_in_schema=False)


@router.get("/audit_logs")
def list_audit_logs(
    services: ServicesDep,
    caller: Admin,
    actor_ids: Values = [],  # noqa: B006  # FastAPI copies it
    event_types: Values = [],  # noqa: B006
    resource_ids: Values = [],  # noqa: B006
    of_actors: Annotated[list[str], _bracketed("actor_ids")] = [],  # noqa: B006
    of_types: Annotated[list[str], _bracketed("event_types")] = [],  # noqa: B006
    of_resources: Annotated[list[str], _bracketed("resource_ids")] = [],  # noqa: B006
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[AuditLogObject]:
    """List changes and their authors, newest first: one row for each request that changed
    something, written with the change. The admin of one project sees the changes made with its
    keys.
    """
    return service.list_audit_logs(
        services,
        caller,
        actor_ids=[*actor_ids, *of_actors],
        event_types=[*event_types, *of_types],
        resource_ids=[*resource_ids, *of_resources],
        after=after,
        limit=limit,
    )
