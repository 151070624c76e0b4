from typing import Annotated

from fastapi import APIRouter, Form, Request, UploadFile
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from app.auth.caller import Caller
from app.base.settings import Settings
from app.http.body_limit import MULTIPART_OVERHEAD_BYTES, declared_file_bytes
from app.http.dependencies import TOUCHES_STORAGE, Agent, IdempotencyKey, ServicesDep, Writer
from app.http.routes import ApiRoute
from app.services import Services
from app.uploads import service
from app.uploads.schemas import CompleteRequest, PartObject, UploadObject, UploadRequest
from app.uploads.service import MAX_PART_BYTES


class PartRoute(ApiRoute):
    body_param = "data"

    def max_body_bytes(self, settings: Settings) -> int:
        return MAX_PART_BYTES + MULTIPART_OVERHEAD_BYTES

    async def admit_body(self, services: Services, caller: Caller, request: Request) -> None:
        if num_bytes := declared_file_bytes(request):
            await run_in_threadpool(service.admit_part, services, caller, num_bytes)


class PartForm(BaseModel):
    model_config = ConfigDict(extra="forbid")

    data: UploadFile


router = APIRouter()
uploads = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=ApiRoute)
parts = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=PartRoute)


@uploads.post("")
def create_upload(services: ServicesDep, caller: Agent, body: UploadRequest) -> UploadObject:
    """Announce a file; send its parts within the hour, then complete it."""
    return service.create_upload(services, caller, body)


@parts.post("/{upload_id}/parts", dependencies=TOUCHES_STORAGE)
def create_part(
    services: ServicesDep,
    caller: Agent,
    upload_id: str,
    form: Annotated[PartForm, Form(media_type="multipart/form-data")],
) -> PartObject:
    """Add a part of at most 64 MiB; several may be sent at once, and in any order."""
    return service.create_part(services, caller, upload_id, form.data.file, form.data.size or 0)


@uploads.post("/{upload_id}/complete", dependencies=TOUCHES_STORAGE)
def complete_upload(
    services: ServicesDep,
    caller: Agent,
    upload_id: str,
    body: CompleteRequest,
    idempotency_key: IdempotencyKey = None,
) -> UploadObject:
    """Make the file out of the parts, in this order. A repetition has no further effect, and with
    an Idempotency-Key two uploads of the same bytes are one file.
    """
    return service.complete_upload(
        services,
        caller,
        upload_id,
        body.part_ids,
        md5=body.md5,
        idempotency_key=idempotency_key,
    )


@uploads.post("/{upload_id}/cancel")
def cancel_upload(services: ServicesDep, caller: Writer, upload_id: str) -> UploadObject:
    """Cancel an upload: its parts are removed, and no more can be sent. A repetition has no further
    effect.
    """
    return service.cancel_upload(services, caller, upload_id)


router.include_router(uploads)
router.include_router(parts)
