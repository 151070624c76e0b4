"""A row of a checkpoint means that all its bytes are stored."""

import json
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from app.base.storage import Storage, Stored
from falqon_core.contract.layout import MANIFEST, checkpoint_folder
from falqon_core.contract.messages import CheckpointSaved
from tests.support.backend import Backend
from tests.worker.attempt.relays import add_running_job, gateway_of, writer_of
from worker.attempt.checkpoint_upload import CheckpointUploads

STATE = "state.bin"
REMOVED = ": the trainer removed it for newer ones before it was uploaded"


def save(output: Path, step: int) -> CheckpointSaved:
    """Write the checkpoint of a step as a trainer does, and return its message."""
    folder = checkpoint_folder(output, step)
    folder.mkdir(parents=True)
    (folder / STATE).write_text(f"{step}")
    entry = {"bytes": len(f"{step}"), "sha256": sha256(f"{step}".encode()).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps({"step": step, "files": {STATE: entry}}))
    digest = sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return CheckpointSaved(step=step, path="", bytes=1, manifest_sha256=digest, metrics={})


@dataclass
class SlowStorage:
    """A storage so slow that the trainer removes a checkpoint while its first file is stored."""

    storage: Storage
    removed: Path
    error: Exception | None = None

    def put_file(self, key: str, path: Path) -> Stored:
        shutil.rmtree(self.removed, ignore_errors=True)
        if self.error is not None:
            raise self.error
        return self.storage.put_file(key, path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)


def test_an_upload_that_has_begun_ends_although_the_trainer_removes_the_checkpoint(
    embedded_backend: Backend, tmp_path: Path
) -> None:
    backend = embedded_backend
    job_id = add_running_job(backend)
    output = tmp_path / "attempt" / "output"
    saved = save(output, 1)
    writer, job = writer_of(gateway_of(backend), job_id), backend.job(job_id)
    storage = SlowStorage(backend.storage, checkpoint_folder(output, 1))
    uploads = CheckpointUploads(storage, writer, job, output, 1, lambda: None)
    uploads.add(saved)
    uploads.finish()
    (kept,) = backend.checkpoints(job_id)
    assert len(backend.storage.keys(kept.storage_prefix)) == 2
    assert [path.name for path in output.parent.iterdir()] == ["output"], "no link is left"
    refused = SlowStorage(storage, checkpoint_folder(output, 2), OSError("refused"))
    uploads = CheckpointUploads(refused, writer, job, output, 1, lambda: None)
    uploads.add(save(output, 2))
    uploads.finish()
    message = "The checkpoint of step 2 could not be stored"
    assert [event.message for event in backend.events(job_id)][-1] == message


def upload(backend: Backend, job_id: str, output: Path, *checkpoints: CheckpointSaved) -> None:
    """Store what is still there of checkpoints of which the newest one is kept."""
    writer, job = writer_of(gateway_of(backend), job_id), backend.job(job_id)
    uploads = CheckpointUploads(backend.storage, writer, job, output, 1, lambda: None)
    for saved in checkpoints:
        uploads.add(saved)
    uploads.finish()


@pytest.mark.parametrize(
    ("gone", "reason"), [(".", REMOVED), (MANIFEST, ""), (STATE, "")], ids=["all", MANIFEST, STATE]
)
def test_a_checkpoint_that_was_removed_before_its_upload_takes_no_place(
    embedded_backend: Backend, tmp_path: Path, gone: str, reason: str
) -> None:
    """Also while it is being removed, file by file."""
    backend = embedded_backend
    job_id = add_running_job(backend)
    output = tmp_path / "output"
    upload(backend, job_id, output, save(output, 1))
    backend.set(job_id, infra_failures=2)
    saved = save(output, 2)
    path = checkpoint_folder(output, 2) / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    upload(backend, job_id, output, saved)

    (kept,) = backend.checkpoints(job_id)
    assert (kept.step, backend.job(job_id).infra_failures) == (1, 2)
    assert len(backend.storage.keys(kept.storage_prefix)) == 2
    assert backend.storage.keys(kept.storage_prefix.removesuffix("/1") + "/2") == []
    warning = backend.events(job_id)[-1]
    text = f"The checkpoint of step 2 could not be stored{reason}"
    assert (warning.level, warning.message) == ("warn", text)


def test_a_file_that_is_not_as_the_manifest_says_is_not_stored(
    embedded_backend: Backend, tmp_path: Path
) -> None:
    job_id = add_running_job(embedded_backend)
    saved = save(tmp_path, 1)
    (checkpoint_folder(tmp_path, 1) / STATE).write_text("changed")

    upload(embedded_backend, job_id, tmp_path, saved)

    assert embedded_backend.checkpoints(job_id) == []
