"""Use cases of workers that reach only the API; each function serves one call."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import chain

from pydantic import BaseModel, ValidationError

from app.attempts.gateway import DirectGateway
from app.attempts.limits import AttemptLimits
from app.attempts.model_files import check_and_read_config
from app.attempts.route import WorkerCaller
from app.attempts.upload import watch
from app.attempts.values import (
    Batch,
    Claimed,
    Ending,
    Inputs,
    SavedCheckpoint,
    TrainingResult,
    WorkerOffer,
)
from app.base.errors import BytesMissing, FencedOut, InvalidRequest, NotFound
from app.base.storage import Stored, keys
from app.http.downloads import REDIRECT_LIFETIME
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.models import Job
from app.services import Services
from falqon_core.contract.layout import MANIFEST
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.prices import Price

MAX_SIGNED_BYTES = 5 * 2**30  # largest object that a store accepts in one PUT
MAX_MANIFEST_BYTES = 16 * 2**20
UPLOAD_LIFETIME = timedelta(minutes=5)  # time to begin an upload


class _CheckpointFile(BaseModel):
    bytes: int


class _CheckpointManifest(BaseModel):
    files: dict[str, _CheckpointFile]


class LeasedJob:
    """Job that the worker holds. The constructor raises `NotFound` for a job of other projects, and
    `FencedOut` if the worker has lost it.
    """

    def __init__(self, services: Services, worker: WorkerCaller, job_id: str, attempt: int) -> None:
        self.services = services
        self.claim = Claim(job_id, attempt, worker.owner)
        self.gateway = gateway_of(services, worker)
        with services.database.read() as session:
            job = session.get(Job, job_id)
        if job is None or job.project_id not in worker.project_ids:
            raise NotFound(f"No such job: {job_id}", param="job_id")
        if (job.attempt, job.lease_owner, job.status) != (attempt, worker.owner, "running"):
            raise FencedOut
        self.job = job

    def put_object(
        self, key: str, chunks: Iterable[bytes], num_bytes: int, check: Callable[[], object]
    ) -> Stored:
        """Store an object of this attempt. `check` raises if its worker may write no longer."""
        self._check_writable(key)
        watched = watch(chunks, check)
        return self.services.storage.put_untrusted(key, watched, num_bytes, check)

    def sign_upload(self, key: str, num_bytes: int) -> str | None:
        """Return a link that accepts an object of this attempt; None if the API has to."""
        self._check_writable(key)
        if not self.services.settings.download_redirects or num_bytes > MAX_SIGNED_BYTES:
            return None
        return self.services.storage.signed_upload(key, UPLOAD_LIFETIME)

    def open_object(self, key: str, *, is_carried: bool) -> str | Iterator[bytes]:
        """Return a link to an object that the attempt reads, or its bytes if `is_carried` or the
        storage makes no links.
        """
        if not _may_read(self.gateway.read_inputs(self.claim), key):
            raise NotFound("No such object.", param="key")
        storage = self.services.storage
        gives_links = self.services.settings.download_redirects and not is_carried
        if gives_links and (link := storage.signed_url(key, REDIRECT_LIFETIME)):
            return link
        chunks = storage.chunks(key)
        try:
            return chain([next(chunks, b"")], chunks)
        except FileNotFoundError:
            raise BytesMissing("The bytes are missing in the server's storage.") from None

    def append_events(self, events: Sequence[NewEvent]) -> bool:
        self.limits.check_events(events)
        return self.gateway.append_events(self.claim, events)

    def append_batch(self, batch: Batch) -> Price | None:
        limits = self.limits
        return self.gateway.append_batch(self.claim, limits.price.device, limits.of_batch(batch))

    def record(self, ending: Ending) -> bool:
        return self.gateway.record(self.claim, self.limits.of_ending(ending))

    @property
    def limits(self) -> AttemptLimits:
        """Return the current bounds of the worker's reports."""
        with self.services.database.read() as session:
            return AttemptLimits.read(session, self.services.settings, self.job, self.claim)

    def add_checkpoint(self, stored: SavedCheckpoint) -> None:
        self.limits.check_step("saved.step", stored.saved.step)
        prefix = keys.checkpoint_prefix(
            self.job.project_id, self.job.id, self.claim.attempt, stored.saved.step
        )
        if not self._is_whole(prefix, stored.saved.manifest_sha256):
            raise InvalidRequest("saved: what its manifest names is not stored.", param="saved")
        dropped = self.gateway.add_checkpoint(self.job, self.claim, stored)
        if dropped is None:
            raise FencedOut

    def publish(self, result: TrainingResult) -> bool:
        """Return False if the user cancelled first."""
        result = self.limits.of_result(result)
        if self.job.recipe is not None and self.job.recipe.find_rate:
            if result.files:
                raise InvalidRequest("files: a range test has no model.", param="files")
            return self.gateway.publish(self.job, self.claim, result)
        prefix = keys.result_prefix(self.job.project_id, self.job.id, self.claim.attempt)
        sizes = self._sizes(f"{prefix}/")
        named = {f"{prefix}/{file.name}": file.stored.bytes for file in result.files}
        if not all(_is_relative(file.name) for file in result.files):
            raise InvalidRequest("files: a name is no plain relative one.", param="files")
        if len(named) != len(result.files):
            raise InvalidRequest("files: a name stands there twice.", param="files")
        if not named or named != {key: sizes.get(key) for key in named}:
            raise InvalidRequest("files: what they name is not stored.", param="files")
        named_sizes = {file.name: file.stored.bytes for file in result.files}
        config = check_and_read_config(self.services.storage, prefix, named_sizes)
        result = result.model_copy(update={"config": config})
        return self.gateway.publish(self.job, self.claim, result)

    def _check_writable(self, key: str) -> None:
        prefix = keys.attempt_prefix(self.job.project_id, self.job.id, self.claim.attempt)
        name = key.removeprefix(f"{prefix}/")
        kind, _, rest = name.partition("/")
        if name == key or kind not in ("checkpoints", "model") or not _is_relative(rest):
            raise NotFound("No such object.", param="key")

    def _is_whole(self, prefix: str, manifest_sha256: str) -> bool:
        """Return True if the files of a checkpoint are stored with the sizes in its manifest."""
        sizes = self._sizes(f"{prefix}/")
        if sizes.get(f"{prefix}/{MANIFEST}", MAX_MANIFEST_BYTES) >= MAX_MANIFEST_BYTES:
            return False
        content = self.services.storage.read(f"{prefix}/{MANIFEST}") or b""
        if hashlib.sha256(content).hexdigest() != manifest_sha256:
            return False
        try:
            files = _CheckpointManifest.model_validate_json(content).files
        except ValidationError:
            return False
        return all(sizes.get(f"{prefix}/{name}") == file.bytes for name, file in files.items())

    def _sizes(self, prefix: str) -> dict[str, int]:
        batches = self.services.storage.objects(prefix)
        return {listed.key: listed.bytes for batch in batches for listed in batch}


def gateway_of(services: Services, worker: WorkerCaller) -> DirectGateway:
    return DirectGateway(
        services.settings,
        services.database,
        services.storage,
        services.redis,
        worker.owner,
        worker.project_ids,
    )


def show(services: Services, worker: WorkerCaller, offer: WorkerOffer) -> None:
    _check_device(offer)
    gateway_of(services, worker).show(offer)


def claim(services: Services, worker: WorkerCaller, offer: WorkerOffer) -> Claimed | None:
    _check_device(offer)
    return gateway_of(services, worker).claim(offer)


def _check_device(offer: WorkerOffer) -> None:
    if find_device(offer.device) is None:
        raise InvalidRequest("device: this is no name of a known card.", param="device")


def hold(services: Services, worker: WorkerCaller, offer: WorkerOffer, job_id: str) -> bool:
    _check_device(offer)
    with services.database.read() as session:
        job = session.get(Job, job_id)
    if job is None or job.project_id not in worker.project_ids:
        raise NotFound(f"No such job: {job_id}", param="job_id")
    return gateway_of(services, worker).hold(offer, job_id)


def _may_read(inputs: Inputs, key: str) -> bool:
    artifacts = [row.storage_key for rows in inputs.artifacts.values() for row in rows]
    if key in {*(file.storage_key for file in inputs.files), *artifacts}:
        return True
    checkpoints = [*inputs.checkpoints, *(checkpoint for _, checkpoint in inputs.bases.values())]
    prefixes = [f"{checkpoint.storage_prefix}/" for checkpoint in checkpoints]
    return any(
        key.startswith(prefix) and _is_relative(key.removeprefix(prefix)) for prefix in prefixes
    )


def _is_relative(name: str) -> bool:
    try:
        keys.relative(name)
    except ValueError:
        return False
    return True
