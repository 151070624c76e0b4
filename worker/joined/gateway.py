"""`worker.gateway` over HTTP. The endpoints are those of `app.attempts`."""

import errno
import hashlib
import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import structlog
from pydantic import TypeAdapter

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
from app.attempts.wire import ClaimedJson, InputsJson
from app.base.ids import new_id
from app.base.storage import StorageUnavailable, Stored
from app.base.storage.hashing import Hashes
from app.base.storage.reach import KeyTaken
from app.base.storage.storage import chunks_of
from app.jobs.claims import Claim
from app.jobs.events import NewEvent
from app.jobs.next_job import NextJob
from app.models import Job
from app.models.trainer_log import TrainerLog
from falqon_core.estimate.prices import Price
from worker.attempt.lease import LeaseLost
from worker.gateway import ServiceRefused, ServiceUnavailable

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
TRANSFER_TIMEOUT = httpx.Timeout(120.0, connect=5.0)  # The storage has to flush a large object.
CHUNK_BYTES = 2**20
LOST_STATUSES = {401, 403, 404, 409}  # The token is revoked, or another attempt has the job.
UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9.-]+|^[^A-Za-z0-9]+")
MAX_NAME = 90
MAX_REASON = 300  # characters
T = TypeVar("T")
log = structlog.get_logger()
_next_job: TypeAdapter[NextJob | None] = TypeAdapter(NextJob | None)
_claimed: TypeAdapter[ClaimedJson | None] = TypeAdapter(ClaimedJson | None)
_renewal = TypeAdapter(Renewal)
_stored = TypeAdapter(Stored)


@dataclass(frozen=True, slots=True)
class Terms:
    """Durations in seconds, as the service counts."""

    lease: float
    heartbeat: float
    poll: float


class JoinedGateway:
    """The service counts every claim under `owner`, which it makes of the token and the name."""

    def __init__(self, url: str, token: str, machine: str) -> None:
        self.owner = new_id(f"{UNSAFE_CHARACTERS.sub('.', machine)[:MAX_NAME] or 'machine'}-")
        self.http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1/worker",
            headers={"authorization": f"Bearer {token}", "falqon-worker": self.owner},
            timeout=TIMEOUT,
            follow_redirects=True,
        )

    def close(self) -> None:
        self.http.close()

    def read_terms(self) -> Terms:
        return Terms(**self._call("GET", "/terms"))

    def find_next(self, device: str, max_gpus: int) -> NextJob | None:
        path = f"/next?device={quote(device)}&max_gpus={max_gpus}"
        return _next_job.validate_python(self._call("GET", path))

    def hold(self, offer: WorkerOffer, job_id: str) -> bool:
        return self._ask("/hold", {"offer": offer, "job_id": job_id})

    def show(self, offer: WorkerOffer) -> None:
        self._ask("/seen", {"offer": offer})

    def claim(self, offer: WorkerOffer) -> Claimed | None:
        claimed = _claimed.validate_python(self._call("POST", "/claims", {"offer": offer}))
        return None if claimed is None else claimed.value()

    def renew(self, claim: Claim) -> Renewal | None:
        return _unless_lost(
            lambda: _renewal.validate_python(self._call("POST", f"{_path(claim)}/renew"))
        )

    def read_inputs(self, claim: Claim) -> Inputs:
        inputs = _unless_lost(lambda: self._call("GET", f"{_path(claim)}/inputs"))
        if inputs is None:
            raise LeaseLost
        return InputsJson(**inputs).value()

    def append_events(self, claim: Claim, events: Sequence[NewEvent]) -> bool:
        return self._write(claim, "events", {"events": list(events)})

    def append_batch(self, claim: Claim, device: str, batch: Batch) -> Price | None:
        """The service remembers which device was offered."""
        body = batch.model_dump(mode="json", exclude_unset=True)
        answer = _unless_lost(lambda: self._call("POST", f"{_path(claim)}/batches", body))
        return None if answer is None else Price(**answer)

    def add_checkpoint(self, job: Job, claim: Claim, stored: SavedCheckpoint) -> list[str] | None:
        """The service itself removes those that give way."""
        return [] if self._write(claim, "checkpoints", stored) else None

    def store_log(self, job: Job, claim: Claim, log: TrainerLog) -> bool:
        return self._write(claim, "log", log)

    def record(self, claim: Claim, ending: Ending) -> bool:
        return self._write(claim, "ending", ending)

    def publish(self, job: Job, claim: Claim, result: TrainingResult) -> bool:
        return self._write(claim, "result", result)

    def is_watched(self, job: Job) -> bool:
        claim = Claim(job.id, job.attempt, self.owner)
        try:
            answer = self._call("GET", f"{_path(claim)}/watched")
        except (ServiceUnavailable, ServiceRefused):
            return True
        return bool(answer["yes"])

    def storage_of(self, claim: Claim) -> "JoinedStorage":
        return JoinedStorage(self.http, claim, self.probe_storage)

    def probe_storage(self) -> None:
        """Learn whether the storage takes writes, and the service answers."""
        try:
            self._call("POST", "/storage")
        except (ServiceUnavailable, ServiceRefused) as error:
            raise StorageUnavailable(str(error)) from error

    def _write(self, claim: Claim, name: str, body: object) -> bool:
        return bool(_unless_lost(lambda: self._ask(f"{_path(claim)}/{name}", body)))

    def _ask(self, path: str, body: object) -> bool:
        return bool(self._call("POST", path, body)["yes"])

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """Raises `ServiceUnavailable`, and `ServiceRefused` where the same call would be refused
        again.
        """
        content = None
        headers = {}
        if body is not None:
            content = TypeAdapter(type(body)).dump_json(body)
            headers = {"content-type": "application/json"}
        try:
            response = self.http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise ServiceUnavailable(str(error)) from error
        if not response.is_success:
            raise _failure_of(response)
        try:
            return response.json()
        except ValueError:
            raise ServiceUnavailable(
                f"no answer of the service: {response.text[:MAX_REASON]}"
            ) from None


class LinkBroken(Exception):
    """A link of the service leads to an address that this machine cannot read from or write to."""


class JoinedStorage:
    """The storage of an attempt, reached through the API or through links that it gives."""

    local_root = None

    def __init__(self, http: httpx.Client, claim: Claim, probe: Callable[[], None]) -> None:
        self.http = http
        self._claim = claim
        self._follows_links = True
        self.probe = probe

    def put_file(self, key: str, path: Path) -> Stored:
        """Store a file by a link, or else by the API: where the service makes no link, where one
        fails, after which this attempt follows no other, and where an object stands under the key,
        which the API compares.
        """
        if self._follows_links and (url := self._sign(key, path)) is not None:
            try:
                if stored := _put_by_link(url, path):
                    return stored
            except LinkBroken as error:
                log.warning("the API carries what no link takes", error=str(error))
                self._follows_links = False
        with path.open("rb") as file, self._reaching():
            response = self.http.put(self._address(key), content=file, timeout=TRANSFER_TIMEOUT)
            if not response.is_success:
                raise _failure_of(response)
            return _stored.validate_python(response.json())

    def fetch(self, key: str, path: Path) -> Stored:
        """Copy an object to a local file. Where a link fails, this attempt follows no other one:
        the API carries the bytes.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._follows_links:
            try:
                return self._download(self._address(key), path)
            except LinkBroken as error:
                log.warning("the API carries what no link brings", error=str(error))
                self._follows_links = False
        return self._download(f"{self._address(key)}?carried=true", path)

    def _download(self, address: str, path: Path) -> Stored:
        hashes = Hashes()
        with (
            path.open("wb") as file,
            self._reaching(),
            self.http.stream("GET", address, timeout=TRANSFER_TIMEOUT) as response,
        ):
            if not response.is_success:
                response.read()
                raise _failure_of(response)
            for chunk in response.iter_bytes(CHUNK_BYTES):
                hashes.update(chunk)
                file.write(chunk)
        return hashes.stored()

    def keys(self, prefix: str) -> list[str]:
        """Return none: the service removes what no row names."""
        return []

    def delete(self, *keys: str) -> None: ...

    def _sign(self, key: str, path: Path) -> str | None:
        upload = {"key": key, "bytes": path.stat().st_size}
        with self._reaching():
            response = self.http.post(f"{_path(self._claim)}/links", json=upload)
            if not response.is_success:
                raise _failure_of(response)
        url: str | None = response.json()["url"]
        return url

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Raise what `app.base.storage.Storage` raises in such a case, and `LinkBroken`."""
        try:
            yield
        except httpx.TransportError as error:
            if str(error.request.url).startswith(str(self.http.base_url)):
                raise StorageUnavailable(str(error)) from error
            raise LinkBroken(str(error)) from error
        except ServiceUnavailable as error:
            raise StorageUnavailable(str(error)) from error
        except ServiceRefused as error:
            if error.status in LOST_STATUSES:
                raise LeaseLost from error
            raise

    def _address(self, key: str) -> str:
        return f"{_path(self._claim)}/objects/{quote(key)}"


def _put_by_link(url: str, path: Path) -> Stored | None:
    """Send a file to the object store, which refuses bytes that changed on the way; None where an
    object stands under the key already. Raises `LinkBroken`.
    """
    hashes, md5 = Hashes(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for chunk in chunks_of(file):
            hashes.update(chunk)
            md5.update(chunk)
        file.seek(0)
        headers = {"if-none-match": "*", "content-md5": b64encode(md5.digest()).decode()}
        try:
            response = httpx.put(url, content=file, headers=headers, timeout=TRANSFER_TIMEOUT)
        except httpx.TransportError as error:
            raise LinkBroken(str(error)) from error
    if response.status_code == httpx.codes.PRECONDITION_FAILED:
        return None
    if not response.is_success:
        raise LinkBroken(f"the object store answers {response.status_code}")
    return hashes.stored()


def _path(claim: Claim) -> str:
    return f"/jobs/{claim.job_id}/attempts/{claim.attempt}"


def _unless_lost(call: Callable[[], T]) -> T | None:
    """Return None where the job is not ours any more."""
    try:
        return call()
    except ServiceRefused as error:
        if error.status in LOST_STATUSES:
            return None
        raise


def _failure_of(response: httpx.Response) -> Exception:
    if response.history:
        return LinkBroken(f"the object store answers {response.status_code}")
    try:
        error = response.json()["error"]
        code, message, param = error["code"], str(error["message"]), error["param"]
    except (ValueError, KeyError, TypeError):  # A proxy between us and the service may answer.
        # The proxy has lost the service for the moment.
        if response.status_code == httpx.codes.NOT_FOUND:
            return ServiceUnavailable(f"404: {response.text[:MAX_REASON]}")
        code, message, param = "", response.text[:MAX_REASON], None
    status = response.status_code
    if code == "bytes_missing" or (status == httpx.codes.NOT_FOUND and param == "key"):
        return FileNotFoundError(message)
    if code == "storage_full":
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if code == "key_taken":
        return KeyTaken(message)
    if code == "storage_unavailable":
        return StorageUnavailable(message)
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS:
        return ServiceUnavailable(f"{status}: {message}")
    return ServiceRefused(status, message)
