from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.http.dependencies import Admin, After, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.keys import service
from app.keys.schemas import KeyCreated, KeyDeleted, KeyObject, KeyRequest

router = APIRouter(prefix="/v1/api_keys", tags=["projects and keys"], route_class=ApiRoute)


@router.post("")
def create_key(
    services: ServicesDep, caller: Admin, body: KeyRequest, response: Response
) -> KeyCreated:
    """Create a key. Only this response holds the secret."""
    response.headers["cache-control"] = "no-store"
    return service.create_key(services, caller, body)


@router.get("", responses={404: {"description": "There is no such project"}})
def list_keys(
    services: ServicesDep,
    caller: Admin,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    project_id: Annotated[str | None, Query(max_length=256)] = None,
) -> Page[KeyObject]:
    """List the keys, newest first, without revoked ones."""
    return service.list_keys(services, caller, project_id=project_id, after=after, limit=limit)


@router.get("/{key_id}")
def retrieve_key(services: ServicesDep, caller: Admin, key_id: str) -> KeyObject:
    return service.retrieve_key(services, caller, key_id)


@router.delete("/{key_id}")
def revoke_key(services: ServicesDep, caller: Admin, key_id: str) -> KeyDeleted:
    """Revoke a key: it is invalid from the next request on; open event streams end within five
    seconds.
    """
    return service.revoke_key(services, caller, key_id)
