from typing import Annotated

from fastapi import APIRouter, Query

from app.aliases.endpoints import AliasName
from app.http.dependencies import After, Reader, ServicesDep, Writer
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.switches import service
from app.switches.schemas import SwitchObject, SwitchRequest

router = APIRouter(prefix="/v1/aliases/{alias}/switches", tags=["models"], route_class=ApiRoute)


@router.post("")
def create_switch(
    services: ServicesDep, caller: Writer, alias: AliasName, body: SwitchRequest
) -> SwitchObject:
    """Let a name stand for a new model, if that is not worse. The new model, its base and the
    models that the name stands for answer the same held-out rows. The name moves if by every grader
    the new model's mean is at most 0.05 lower and the paired test does not find it worse; else it
    stays. With `canary` the new model gets that percentage of the requests first.
    """
    return service.create_switch(services, caller, alias, body)


@router.get("")
def list_switches(
    services: ServicesDep,
    caller: Reader,
    alias: AliasName,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[SwitchObject]:
    """List the switches of a name, newest first."""
    return service.list_switches(services, caller, alias, after=after, limit=limit)


@router.get("/{switch_id}")
def retrieve_switch(
    services: ServicesDep, caller: Reader, alias: AliasName, switch_id: str
) -> SwitchObject:
    return service.retrieve_switch(services, caller, alias, switch_id)
