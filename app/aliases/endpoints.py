from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.aliases import service
from app.aliases.schemas import (
    AliasDeleted,
    AliasObject,
    AliasRequest,
    AliasUsage,
    Name,
    RollbackRequest,
)
from app.http.dependencies import Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute

router = APIRouter(prefix="/v1/aliases", tags=["models"], route_class=ApiRoute)
AliasName = Annotated[Name, Path(description="letters, digits and ._:@+-, such as gpt-4o-mini")]
Everywhere = Annotated[
    bool, Query(description="the name of every project, for an admin of the installation")
]


@router.get("")
def list_aliases(services: ServicesDep, caller: Reader) -> Page[AliasObject]:
    """List the names that stand for models, those of the project and those of every project."""
    return service.list_aliases(services, caller)


@router.get("/{alias}")
def retrieve_alias(services: ServicesDep, caller: Reader, alias: AliasName) -> AliasObject:
    return service.retrieve_alias(services, caller, alias)


@router.post("")
def put_alias(
    services: ServicesDep, caller: Writer, body: AliasRequest, everywhere: Everywhere = False
) -> AliasObject:
    """Let a name stand for a model, or for several that share its requests. Every API process
    follows within a second; answers that have begun end as they began.
    """
    return service.put_alias(services, caller, body, everywhere=everywhere)


@router.delete("/{alias}")
def delete_alias(
    services: ServicesDep, caller: Writer, alias: AliasName, everywhere: Everywhere = False
) -> AliasDeleted:
    """Delete a name. Its versions stay, so that a rollback brings it back."""
    return service.delete_alias(services, caller, alias, everywhere=everywhere)


@router.get("/{alias}/versions")
def list_versions(
    services: ServicesDep, caller: Reader, alias: AliasName, everywhere: Everywhere = False
) -> Page[AliasObject]:
    """List the versions of a name, the newest first; the newest 100 are kept."""
    return service.list_versions(services, caller, alias, everywhere=everywhere)


@router.post("/{alias}/rollback")
def roll_back(
    services: ServicesDep,
    caller: Writer,
    alias: AliasName,
    body: RollbackRequest | None = None,
    everywhere: Everywhere = False,
) -> AliasObject:
    """Put the version before, or a given one, in force again."""
    version = body.version if body else None
    return service.roll_back(services, caller, alias, version, everywhere=everywhere)


@router.get("/{alias}/usage")
def list_usage(
    services: ServicesDep,
    caller: Reader,
    alias: AliasName,
    days: Annotated[int, Query(ge=1, le=90)] = 7,
) -> Page[AliasUsage]:
    """List the project's requests that named the alias, by UTC day and model."""
    return service.list_usage(services, caller, alias, days)
