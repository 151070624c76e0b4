from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.http.dependencies import Admin, After, ApiRoute, App
from app.http.pagination import Page
from app.keys import service
from app.keys.schemas import KeyCreated, KeyDeleted, KeyObject, KeyRequest
from app.projects import service as projects

router = APIRouter(prefix="/v1/api_keys", tags=["projects and keys"], route_class=ApiRoute)


@router.post("")
def create_key(app: App, caller: Admin, body: KeyRequest, response: Response) -> KeyCreated:
    """The answer holds the secret, and nothing else ever will."""
    with app.database.transaction() as session:
        key, secret = service.create(session, caller, body)
        session.refresh(key)
    response.headers["cache-control"] = "no-store"
    return KeyCreated.of(key, secret=secret)


@router.get("", responses={404: {"description": "There is no such project"}})
def list_keys(
    app: App,
    caller: Admin,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    project_id: Annotated[str | None, Query(max_length=256)] = None,
) -> Page[KeyObject]:
    """Newest first, without those that were revoked."""
    with app.database.read() as session:
        within = caller.administered_project if project_id is None else projects.get(session, caller, project_id).id
        keys = service.page(session, within, after=after, limit=limit)
    return Page[KeyObject].of([KeyObject.of(key) for key in keys], limit)


@router.get("/{key_id}")
def retrieve_key(app: App, caller: Admin, key_id: str) -> KeyObject:
    with app.database.read() as session:
        return KeyObject.of(service.get(session, caller, key_id))


@router.delete("/{key_id}")
def revoke_key(app: App, caller: Admin, key_id: str) -> KeyDeleted:
    """From the next request on the key opens nothing; open event streams end within five seconds."""
    with app.database.transaction() as session:
        service.revoke(session, caller, key_id)
    return KeyDeleted(id=key_id)
