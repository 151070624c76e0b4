"""The calls of an attempt to the service and to the storage, for each way by which a worker reaches
them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from app.attempts.values import (
    Batch,
    Claimed,
    Ending,
    Inputs,
    Renewal,
    SavedCheckpoint,
    TrainingResult,
    WorkerOffer,
)
from app.base import database
from app.base.storage import Stored
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.next_job import NextJob
from app.models import Job
from app.models.trainer_log import TrainerLog
from falqon_core.estimate.prices import Price


class ServiceUnavailable(Exception):
    """The service does not answer; the same call may succeed a moment later."""


class ServiceRefused(Exception):
    """The same call would be refused again; with what the service says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


UNAVAILABLE = (*database.DATABASE_UNAVAILABLE_ERRORS, ServiceUnavailable)


class ObjectStore(Protocol):
    """`app.base.storage.Storage`, as much of it as an attempt needs."""

    @property
    def local_root(self) -> Path | None: ...
    def put_file(self, key: str, path: Path) -> Stored: ...
    def fetch(self, key: str, path: Path) -> Stored: ...
    def probe(self) -> None: ...
    def keys(self, prefix: str) -> list[str]: ...
    def delete(self, *keys: str) -> None: ...


class Gateway(Protocol):
    """`app.attempts.gateway.DirectGateway`, where each function is described. All of them raise one
    of `UNAVAILABLE` while the service is unavailable.
    """

    owner: str

    def find_next(self, device: str, max_gpus: int) -> NextJob | None: ...
    def hold(self, offer: WorkerOffer, job_id: str) -> bool: ...
    def show(self, offer: WorkerOffer) -> None: ...
    def claim(self, offer: WorkerOffer) -> Claimed | None: ...
    def renew(self, claim: Claim) -> Renewal | None: ...
    def read_inputs(self, claim: Claim) -> Inputs: ...
    def append_events(self, claim: Claim, events: Sequence[NewEvent]) -> bool: ...
    def append_batch(self, claim: Claim, device: str, batch: Batch) -> Price | None: ...
    def add_checkpoint(
        self, job: Job, claim: Claim, stored: SavedCheckpoint
    ) -> list[str] | None: ...
    def store_log(self, job: Job, claim: Claim, log: TrainerLog) -> bool: ...
    def record(self, claim: Claim, ending: Ending) -> bool: ...
    def publish(self, job: Job, claim: Claim, result: TrainingResult) -> bool: ...
    def is_watched(self, job: Job) -> bool: ...
    def storage_of(self, claim: Claim) -> ObjectStore: ...
    def probe_storage(self) -> None: ...
