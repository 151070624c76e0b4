"""Checkpoints between the trainer's folder and storage. Bytes first, then the row: a row means that
they are there.
"""

import errno
import json
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from obstore.exceptions import BaseError

from app.attempts.values import SavedCheckpoint
from app.base import counters
from app.base.ids import new_id
from app.base.storage import StorageUnavailable, keys
from app.jobs.events import NewEvent
from app.models import Job
from falqon_core.contract.errors import is_disk_full
from falqon_core.contract.layout import MANIFEST, checkpoint_folder
from falqon_core.contract.messages import CheckpointSaved
from falqon_core.fault_points import fault
from worker.attempt.lease import LeaseLost
from worker.attempt.writer import AttemptWriter
from worker.gateway import ObjectStore
from worker.models.outputs import files_of

log = structlog.get_logger()


class CheckpointUploads:
    """A thread of its own, so that a slow upload holds up neither training nor metrics."""

    def __init__(
        self,
        storage: ObjectStore,
        writer: AttemptWriter,
        job: Job,
        output: Path,
        keep: int,
        on_full_disk: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._job = job
        self._output = output
        self._keep = keep
        self._on_full_disk = on_full_disk
        self._storage_away = False
        self._newest_step = 0
        self._queue: queue.Queue[CheckpointSaved | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def add(self, saved: CheckpointSaved) -> None:
        self._newest_step = saved.step
        self._queue.put(saved)

    def finish(self) -> None:
        """Wait until everything that was added is stored or given up."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (saved := self._queue.get()) is not None:
            try:
                if self._storage_away and saved.step < self._newest_step:
                    raise StorageUnavailable("not tried, a newer checkpoint waits")
                started_at = time.monotonic()
                self._store(saved)
                counters.CHECKPOINT_SECONDS.observe(time.monotonic() - started_at)
                self._storage_away = False
            except LeaseLost:
                return
            # Top-level handler of a thread. Storage is unavailable, most likely: training goes on,
            # the next one may succeed.
            except Exception as error:
                log.warning(
                    "checkpoint not stored", job_id=self._job.id, step=saved.step, error=repr(error)
                )
                self._storage_away = isinstance(error, StorageUnavailable)
                if is_disk_full(error):
                    self._on_full_disk()
                text = f"The checkpoint of step {saved.step} could not be stored"
                folder = checkpoint_folder(self._output, saved.step)
                if isinstance(error, FileNotFoundError) and not folder.exists():
                    text += ": the trainer removed it for newer ones before it was uploaded"
                self._writer.add_event(NewEvent(text, level="warn"))

    def _store(self, saved: CheckpointSaved) -> None:
        prefix = keys.checkpoint_prefix(
            self._job.project_id, self._job.id, self._job.attempt, saved.step
        )
        try:
            self._upload(saved, prefix)
        except StorageUnavailable:
            raise
        except (OSError, BaseError):
            discard(self._storage, prefix)
            raise
        fault("before_checkpoint_row")
        dropped = self._write_row(saved)
        fault("after_checkpoint_row")
        for old in dropped:
            discard(self._storage, old)

    def _upload(self, saved: CheckpointSaved, prefix: str) -> None:
        folder = checkpoint_folder(self._output, saved.step)
        fault("before_checkpoint_upload")
        # The trainer may remove the checkpoint for newer ones during a slow upload.
        with TemporaryDirectory(prefix="upload.", dir=self._output.parent) as links:
            self._upload_files(saved, prefix, _link_files(folder, Path(links)))

    def _upload_files(self, saved: CheckpointSaved, prefix: str, folder: Path) -> None:
        paths = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
        expected = _read_hashes(folder, saved)
        if missing := expected.keys() - paths.keys():
            raise FileNotFoundError(f"{folder} is without {', '.join(sorted(missing))}")
        for name, path in paths.items():
            self._writer.lease.check()
            fault("during_checkpoint_upload")
            stored = self._storage.put_file(f"{prefix}/{name}", path)
            if stored.sha256 != expected.get(name, stored.sha256):
                raise OSError(f"{path} is not the file that the trainer announced")

    def _write_row(self, saved: CheckpointSaved) -> list[str]:
        """Return the prefixes of checkpoints that it takes the place of."""
        writer = self._writer
        stored = SavedCheckpoint(id=new_id("ftckpt_"), saved=saved, keep=self._keep)
        dropped = writer.write_with_retry(
            lambda: writer.gateway.add_checkpoint(self._job, writer.claim, stored)
        )
        if dropped is None:
            writer.raise_lease_lost()
        return dropped


def _link_files(folder: Path, links: Path) -> Path:
    """Return the folder `links` with hard links to the files of a folder, or that one itself where
    the disk has no such links.
    """
    for path in files_of(folder):
        link = links / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, link)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            return folder
    return links


def _read_hashes(folder: Path, saved: CheckpointSaved) -> dict[str, str]:
    """Return the sha256 of the manifest and of every file that it names."""
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    return {name: entry["sha256"] for name, entry in files.items()} | {
        MANIFEST: saved.manifest_sha256
    }


def discard(storage: ObjectStore, prefix: str) -> None:
    """Remove bytes that no row names any more; those that stay behind are harmless."""
    try:
        if keys := storage.keys(prefix):
            storage.delete(*keys)
    except (OSError, BaseError) as error:
        log.warning("old bytes not removed", prefix=prefix, error=str(error))
