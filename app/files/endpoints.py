from typing import Annotated, Literal, Self

from fastapi import APIRouter, Form, Query, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from app.auth.caller import Caller
from app.files import service
from app.files.schemas import (
    MAX_PAGE,
    PAGE,
    FileDeleted,
    FileObject,
    Lifetime,
    Order,
    SourceRequest,
    UploadPurpose,
)
from app.files.sending import send_content
from app.files.tables import MAX_MAPPING_CHARACTERS, parse_filename, parse_mapping
from app.http import downloads
from app.http.body_limit import declared_file_bytes
from app.http.dependencies import (
    MAX_IDEMPOTENCY_KEY_LENGTH,
    TOUCHES_STORAGE,
    After,
    Agent,
    IdempotencyKey,
    Reader,
    ServicesDep,
    Writer,
)
from app.http.pagination import Page
from app.http.routes import ApiRoute, UploadRoute
from app.services import Services


class FileRoute(UploadRoute):
    async def admit_body(self, services: Services, caller: Caller, request: Request) -> None:
        if num_bytes := declared_file_bytes(request):
            key = request.headers.get("idempotency-key")
            await run_in_threadpool(service.admit_file, services, caller, num_bytes, key)


router = APIRouter(prefix="/v1/files", tags=["files"], route_class=FileRoute)


class FileForm(BaseModel):
    """multipart/form-data, with `expires_after` spelled as the client spells objects in forms."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile
    purpose: UploadPurpose
    anchor: Literal["created_at"] | None = Field(None, alias="expires_after[anchor]")
    seconds: Lifetime | None = Field(None, alias="expires_after[seconds]")
    mapping: str = Field(
        "",
        max_length=MAX_MAPPING_CHARACTERS,
        description="the column of each field of a record, as JSON: "
        '{"prompt": "question", "completion": "answer"}',
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.anchor is None) != (self.seconds is None):
            raise ValueError("expires_after: needs both 'anchor' and 'seconds'")
        return self


class _JsonRoute(ApiRoute):
    """Route for JSON bodies that leaves forms to the next route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        content_type = Headers(scope=scope).get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            return Match.NONE, {}
        return super().matches(scope)


def create_file_from_source(
    services: ServicesDep,
    caller: Writer,
    request: SourceRequest,
    idempotency_key: IdempotencyKey = None,
) -> FileObject:
    """Have a worker make a file of the content of an address."""
    return service.import_file(services, caller, request, idempotency_key=idempotency_key)


# In the description it is one call with two kinds of body.
router.add_api_route(
    "",
    create_file_from_source,
    methods=["POST"],
    route_class_override=_JsonRoute,
    include_in_schema=False,
)


@router.post(
    "",
    dependencies=TOUCHES_STORAGE,
    openapi_extra={
        "requestBody": {
            "content": {"application/json": {"schema": SourceRequest.model_json_schema()}}
        }
    },
)
def create_file(
    services: ServicesDep,
    caller: Agent,
    form: Annotated[FileForm, Form(media_type="multipart/form-data")],
    idempotency_key: IdempotencyKey = None,
) -> FileObject:
    """Create a file. Files of purpose `fine-tune` are then checked, see `status`; the others are
    only stored. Parquet, CSV, a JSON list and gzip files are converted into JSON lines before, see
    `source`; so is the content of an address that is sent as JSON.
    """
    return service.create_file(
        services,
        caller,
        form.file.file,
        form.file.size or 0,
        filename=parse_filename(form.file.filename),
        purpose=form.purpose,
        lifetime_seconds=form.seconds,
        idempotency_key=idempotency_key,
        mapping=parse_mapping(form.mapping),
    )


@router.get("")
def list_files(
    services: ServicesDep,
    caller: Reader,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
    order: Order = "desc",
    purpose: str | None = None,
    idempotency_key: Annotated[
        str | None,
        Query(
            max_length=MAX_IDEMPOTENCY_KEY_LENGTH,
            description="the one file that was created with this idempotency key",
        ),
    ] = None,
) -> Page[FileObject]:
    return service.list_files(
        services,
        caller,
        after=after,
        limit=limit,
        order=order,
        purpose=purpose,
        idempotency_key=idempotency_key,
    )


@router.get("/{file_id}")
def retrieve_file(services: ServicesDep, caller: Reader, file_id: str) -> FileObject:
    return service.retrieve_file(services, caller, file_id)


@router.delete("/{file_id}")
def delete_file(services: ServicesDep, caller: Writer, file_id: str) -> FileDeleted:
    return service.delete_file(services, caller, file_id)


@router.post("/{file_id}/check")
def check_file(services: ServicesDep, caller: Writer, file_id: str) -> FileObject:
    """Have a file checked again, for example after an upgrade that accepts more. Its `status` is
    `uploaded` until the new verdict; jobs that use it go on.
    """
    return service.check_file(services, caller, file_id)


@router.head("/{file_id}/content", include_in_schema=False)
@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses=downloads.RESPONSES,
    dependencies=TOUCHES_STORAGE,
)
def retrieve_content(
    services: ServicesDep,
    caller: Reader,
    request: Request,
    file_id: str,
    skip_bad_lines: Annotated[
        # The response has no length and no ETag before its end, as the description promises.
        bool,
        Query(include_in_schema=False),
    ] = False,
) -> Response:
    return send_content(services, caller, request, file_id, skip_bad_lines=skip_bad_lines)
