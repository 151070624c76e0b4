"""Endpoints for workers that reach only the API; `worker.joined` calls them. They change with the
workers, so the description of the API leaves them out.
"""

from collections.abc import Iterator
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from starlette.responses import RedirectResponse, StreamingResponse

from app.attempts import service
from app.attempts.route import TOUCHES_STORAGE, ObjectRoute, WorkerDep, WorkerRoute, check_token
from app.attempts.service import LeasedJob
from app.attempts.values import (
    Batch,
    Ending,
    Few,
    NewEvents,
    Renewal,
    SavedCheckpoint,
    TrainingResult,
    WorkerOffer,
)
from app.attempts.wire import ClaimedJson, InputsJson
from app.base.errors import FencedOut
from app.base.storage import Stored
from app.http.dependencies import ServicesDep
from app.http.storage_limit import read_in_threads, write_in_thread
from app.jobs.next_job import NextJob
from app.models.falqon_options import ANY_DEVICE
from app.models.trainer_log import TrainerLog
from falqon_core.contract.figures import Count
from falqon_core.estimate.prices import Price

ATTEMPT_PATH = "/jobs/{job_id}/attempts/{attempt}"
router = APIRouter(prefix="/v1/worker", route_class=WorkerRoute, include_in_schema=False)
objects = APIRouter(route_class=ObjectRoute, include_in_schema=False)
T = TypeVar("T")


class WorkerTerms(BaseModel):
    """Durations in seconds."""

    lease: float
    heartbeat: float
    poll: float


class Capacity(BaseModel):
    offer: WorkerOffer


class Hold(Capacity):
    job_id: str


class Events(BaseModel):
    events: NewEvents


class AnnouncedUpload(BaseModel):
    key: str
    bytes: Count


class UploadLink(BaseModel):
    url: str | None


class YesNo(BaseModel):
    yes: bool


@router.get("/terms")
def read_terms(services: ServicesDep, _worker: WorkerDep) -> WorkerTerms:
    settings = services.settings
    return WorkerTerms(
        lease=settings.lease.total_seconds(),
        heartbeat=settings.heartbeat.total_seconds(),
        poll=settings.poll.total_seconds(),
    )


@router.post("/storage", dependencies=TOUCHES_STORAGE)
def probe_storage(services: ServicesDep, _worker: WorkerDep) -> YesNo:
    services.storage.probe()
    return YesNo(yes=True)


@router.get("/next")
def find_next(
    services: ServicesDep,
    worker: WorkerDep,
    max_gpus: Few,
    device: Annotated[str, Query(max_length=64)] = ANY_DEVICE,
) -> NextJob | None:
    return service.gateway_of(services, worker).find_next(device, max_gpus)


@router.post("/hold")
def hold(services: ServicesDep, worker: WorkerDep, body: Hold) -> YesNo:
    return YesNo(yes=service.hold(services, worker, body.offer, body.job_id))


@router.post("/seen")
def show(services: ServicesDep, worker: WorkerDep, body: Capacity) -> YesNo:
    service.show(services, worker, body.offer)
    return YesNo(yes=True)


@router.post("/claims", dependencies=TOUCHES_STORAGE)
def claim(services: ServicesDep, worker: WorkerDep, body: Capacity) -> ClaimedJson | None:
    claimed = service.claim(services, worker, body.offer)
    return claimed and ClaimedJson.of(claimed)


@router.post(f"{ATTEMPT_PATH}/renew")
def renew(services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int) -> Renewal:
    leased = LeasedJob(services, worker, job_id, attempt)
    return _require_lease(leased.gateway.renew(leased.claim))


@router.get(f"{ATTEMPT_PATH}/inputs")
def read_inputs(services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int) -> InputsJson:
    leased = LeasedJob(services, worker, job_id, attempt)
    return InputsJson.of(leased.gateway.read_inputs(leased.claim))


@router.post(f"{ATTEMPT_PATH}/events")
def append_events(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, body: Events
) -> YesNo:
    leased = LeasedJob(services, worker, job_id, attempt)
    return YesNo(yes=leased.append_events(body.events))


@router.post(f"{ATTEMPT_PATH}/batches")
def append_batch(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, batch: Batch
) -> Price:
    leased = LeasedJob(services, worker, job_id, attempt)
    return _require_lease(leased.append_batch(batch))


@router.get(f"{ATTEMPT_PATH}/watched")
def is_watched(services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int) -> YesNo:
    leased = LeasedJob(services, worker, job_id, attempt)
    return YesNo(yes=leased.gateway.is_watched(leased.job))


@router.post(f"{ATTEMPT_PATH}/checkpoints", dependencies=TOUCHES_STORAGE)
def add_checkpoint(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, stored: SavedCheckpoint
) -> YesNo:
    LeasedJob(services, worker, job_id, attempt).add_checkpoint(stored)
    return YesNo(yes=True)


@router.post(f"{ATTEMPT_PATH}/log", dependencies=TOUCHES_STORAGE)
def store_log(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, log: TrainerLog
) -> YesNo:
    leased = LeasedJob(services, worker, job_id, attempt)
    return YesNo(yes=leased.gateway.store_log(leased.job, leased.claim, log))


@router.post(f"{ATTEMPT_PATH}/ending")
def record(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, ending: Ending
) -> YesNo:
    leased = LeasedJob(services, worker, job_id, attempt)
    return YesNo(yes=leased.record(ending))


@router.post(f"{ATTEMPT_PATH}/result", dependencies=TOUCHES_STORAGE)
def publish(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, result: TrainingResult
) -> YesNo:
    return YesNo(yes=LeasedJob(services, worker, job_id, attempt).publish(result))


@router.get(f"{ATTEMPT_PATH}/objects/{{key:path}}", dependencies=TOUCHES_STORAGE)
def read_object(
    services: ServicesDep,
    worker: WorkerDep,
    job_id: str,
    attempt: int,
    key: str,
    carried: bool = False,
) -> Response:
    opened = LeasedJob(services, worker, job_id, attempt).open_object(key, is_carried=carried)
    if isinstance(opened, str):
        return RedirectResponse(opened, 302, {"cache-control": "no-store"})
    return StreamingResponse(read_in_threads(opened), media_type="application/octet-stream")


@router.post(f"{ATTEMPT_PATH}/links")
def sign_upload(
    services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, upload: AnnouncedUpload
) -> UploadLink:
    leased = LeasedJob(services, worker, job_id, attempt)
    return UploadLink(url=leased.sign_upload(upload.key, upload.bytes))


@objects.put(f"{ATTEMPT_PATH}/objects/{{key:path}}")
async def put_object(
    request: Request, services: ServicesDep, worker: WorkerDep, job_id: str, attempt: int, key: str
) -> Stored:
    def check() -> LeasedJob:
        check_token(services, request)
        return LeasedJob(services, worker, job_id, attempt)

    def put(chunks: Iterator[bytes]) -> Stored:
        num_bytes = int(request.headers.get("content-length", "0"))
        return check().put_object(key, chunks, num_bytes, check)

    return await write_in_thread(put, request.stream())


def _require_lease(value: T | None) -> T:
    if value is None:
        raise FencedOut
    return value


router.include_router(objects)
