"""Checkpoints between the trainer's folder and storage. Bytes first, then the row: a row means that they are there."""

import queue
import threading
from pathlib import Path

import structlog
from obstore.exceptions import BaseError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.garbage import orphans
from app.ids import new_id
from app.jobs import claims
from app.jobs.checkpoints import best_of
from app.jobs.events import NewEvent
from app.models import Checkpoint, Job
from app.storage import Storage, StorageAway, keys
from falqon_core.contract.errors import is_disk_full
from falqon_core.contract.layout import MANIFEST, checkpoint_folder
from falqon_core.contract.messages import CheckpointSaved
from falqon_core.fault_points import fault
from worker.attempt.lease import LeaseLost
from worker.attempt.writer import AttemptWriter
from worker.outputs import files_of

log = structlog.get_logger()


class CheckpointUploads:
    """A thread of its own, so that a slow upload holds up neither training nor metrics."""

    def __init__(self, storage: Storage, writer: AttemptWriter, job: Job, output: Path, keep: int) -> None:
        self._storage = storage
        self._writer = writer
        self._job = job
        self._output = output
        self._keep = keep
        self.disk_full = False
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
                    raise StorageAway("not tried, a newer checkpoint waits")
                self._store(saved)
                self._storage_away = False
            except LeaseLost:
                return
            except Exception as error:  # the edge of a thread; storage away, most likely: training goes on, the next one may succeed
                log.warning("checkpoint not stored", job_id=self._job.id, step=saved.step, error=repr(error))
                self._storage_away = isinstance(error, StorageAway)
                self.disk_full = self.disk_full or is_disk_full(error)
                self._writer.add_event(NewEvent(f"The checkpoint of step {saved.step} could not be stored", level="warn"))

    def _store(self, saved: CheckpointSaved) -> None:
        prefix = keys.checkpoint_prefix(self._job.project_id, self._job.id, self._job.attempt, saved.step)
        try:
            self._upload(saved, prefix)
        except StorageAway:
            raise
        except (OSError, BaseError):
            discard(self._storage, prefix)
            raise
        fault("before_checkpoint_row")
        dropped = self._write_row(saved, prefix)
        fault("after_checkpoint_row")
        for old in dropped:
            discard(self._storage, old)

    def _upload(self, saved: CheckpointSaved, prefix: str) -> None:
        folder = checkpoint_folder(self._output, saved.step)
        fault("before_checkpoint_upload")
        for path in files_of(folder):
            self._writer.lease.check()
            fault("during_checkpoint_upload")
            stored = self._storage.put_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
            if path == folder / MANIFEST and stored.sha256 != saved.manifest_sha256:
                raise OSError(f"{path} is not the manifest that the trainer announced")

    def _write_row(self, saved: CheckpointSaved, prefix: str) -> list[str]:
        """Returns the prefixes of checkpoints that it takes the place of."""
        row = Checkpoint(
            id=new_id("ftckpt_"),
            job_id=self._job.id,
            project_id=self._job.project_id,
            attempt=self._job.attempt,
            step=saved.step,
            storage_prefix=prefix,
            manifest_sha256=saved.manifest_sha256,
            bytes=saved.bytes,
            metrics=saved.metrics,
        )
        dropped: list[str] = []

        def write(session: Session) -> bool:
            dropped.clear()
            draft = NewEvent(f"Checkpoint of step {saved.step} saved", data={"step": saved.step, "bytes": saved.bytes})
            known = newest_first(session, self._job.id)
            if any(one.id == row.id for one in known):  # written by a transaction whose success nobody heard of
                return claims.append_events(session, self._writer.claim, [])
            # Failures count in a row: who gets further each time is not in a loop.
            further = {"infra_failures": 0} if all(one.step < saved.step for one in known) else {}
            if not claims.append_events(session, self._writer.claim, [draft], **further):
                return False
            session.merge(row)
            session.flush()
            dropped.extend(_drop_old(session, self._job.id, self._keep))
            orphans.abandon(session, [f"{old}/" for old in dropped])  # should they not be removed now
            return True

        if not self._writer.write_with_retry(write):
            self._writer.raise_lease_lost()
        return dropped


def newest_first(session: Session, job_id: str) -> list[Checkpoint]:
    order = (Checkpoint.step.desc(), Checkpoint.attempt.desc())
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(*order)))


def discard(storage: Storage, prefix: str) -> None:
    """Remove bytes that no row names any more; what stays behind harms nobody."""
    try:
        if found := storage.keys(prefix):
            storage.delete(*found)
    except (OSError, BaseError) as error:
        log.warning("old bytes not removed", prefix=prefix, error=str(error))


def _drop_old(session: Session, job_id: str, keep: int) -> list[str]:
    """All but the `keep` newest and the best."""
    checkpoints = newest_first(session, job_id)
    best = best_of(checkpoints)
    old = [checkpoint for checkpoint in checkpoints[keep:] if checkpoint is not best]
    session.execute(delete(Checkpoint).where(Checkpoint.id.in_([checkpoint.id for checkpoint in old])))
    return [checkpoint.storage_prefix for checkpoint in old]
