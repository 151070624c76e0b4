from fastapi import APIRouter

from app.http.dependencies import Admin, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.source_tokens import service
from app.source_tokens.schemas import (
    HubToken,
    S3Key,
    SourceTokenDeleted,
    SourceTokenObject,
)

router = APIRouter(prefix="/v1/source_tokens", tags=["files"], route_class=ApiRoute)


@router.get("")
def list_source_tokens(services: ServicesDep, caller: Admin) -> Page[SourceTokenObject]:
    """List the kinds of private sources that the project can read; the tokens themselves are not
    shown.
    """
    return service.list_tokens(services, caller)


@router.put("/hf")
def put_hub_token(services: ServicesDep, caller: Admin, request: HubToken) -> SourceTokenObject:
    """Read `hf://` sources with this token of the Hugging Face Hub."""
    return service.put_token(services, caller, "hf", request)


@router.put("/s3")
def put_s3_key(services: ServicesDep, caller: Admin, request: S3Key) -> SourceTokenObject:
    """Read `s3://` sources with this key."""
    return service.put_token(services, caller, "s3", request)


@router.delete("/{token_id}")
def delete_source_token(services: ServicesDep, caller: Admin, token_id: str) -> SourceTokenDeleted:
    return service.delete_token(services, caller, token_id)
