from typing import Annotated

from fastapi import APIRouter, Query

from app.http.dependencies import After, InstallationAdmin, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.users import service
from app.users.schemas import GrantDeleted, GrantObject, GrantRequest, UserDeleted, UserObject

router = APIRouter(prefix="/v1/organization", tags=["projects and keys"], route_class=ApiRoute)


@router.get("/users")
def list_users(
    services: ServicesDep,
    caller: InstallationAdmin,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[UserObject]:
    """List the persons who signed in through the identity provider, newest first, removed ones
    too.
    """
    return service.list_users(services, caller, after=after, limit=limit)


@router.get("/users/{user_id}")
def retrieve_user(services: ServicesDep, caller: InstallationAdmin, user_id: str) -> UserObject:
    return service.retrieve_user(services, caller, user_id)


@router.delete("/users/{user_id}")
def remove_user(services: ServicesDep, caller: InstallationAdmin, user_id: str) -> UserDeleted:
    """Remove a person: their sessions end and all their keys are invalid from the next request on,
    and they cannot sign in again.
    """
    return service.remove_user(services, caller, user_id)


@router.post("/users/{user_id}/readmit")
def readmit_user(services: ServicesDep, caller: InstallationAdmin, user_id: str) -> UserObject:
    """Let a removed person sign in again. Their keys stay revoked."""
    return service.readmit_user(services, caller, user_id)


@router.get("/group_grants")
def list_grants(services: ServicesDep, caller: InstallationAdmin) -> Page[GrantObject]:
    """List the scopes that groups of the identity provider have in projects."""
    return service.list_grants(services, caller)


@router.post("/group_grants")
def put_grant(services: ServicesDep, caller: InstallationAdmin, body: GrantRequest) -> GrantObject:
    """Give the members of a group a scope in a project, from their next sign-in on; a scope that
    the group has there is replaced.
    """
    return service.put_grant(services, caller, body)


@router.delete("/group_grants/{grant_id}")
def delete_grant(services: ServicesDep, caller: InstallationAdmin, grant_id: str) -> GrantDeleted:
    """Delete a grant. Sessions that it gave end when they expire."""
    return service.delete_grant(services, caller, grant_id)
