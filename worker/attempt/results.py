"""A finished model: its files into storage, then its rows together with the job's success."""

import json
from pathlib import Path
from typing import NamedTuple

from sqlalchemy.orm import Session

from app.catalogue import repository as catalogue
from app.catalogue.naming import fine_tuned_model_id
from app.jobs import claims
from app.jobs import repository as jobs
from app.jobs.events import NewEvent
from app.models import Artifact, Job, JobStatus, Model
from app.storage import Storage, StorageAway, Stored, keys
from falqon_core.contract.layout import SHA256SUMS
from falqon_core.contract.messages import Finished
from falqon_core.fault_points import fault
from worker.attempt.certificate import ExportDamaged, add_service_facts, sums
from worker.attempt.context import AttemptContext
from worker.attempt.lease import Lease
from worker.attempt.metrics_file import MetricsFile
from worker.attempt.stop_policy import StopRequested
from worker.outputs import files_of


class UploadedFile(NamedTuple):
    name: str
    storage_key: str
    stored: Stored


def publish_with_retry(attempt: AttemptContext, folder: Path, finished: Finished | None) -> bool:
    """Publish the result, and wait for a storage that is away as long as the lease lasts and nobody
    wants a stop. Return False if the user cancelled first.
    """
    fault("before_hand_in")
    with attempt.worker.database.read() as session:
        model_id = _model_id(session, attempt.job)
    add_service_facts(folder, attempt.job.id, model_id, attempt.progress.snapshot().cost)
    has_warned = False
    while True:
        try:
            return _publish(attempt, folder, finished)
        except StorageAway as error:
            attempt.outage.begin(error)
        if not has_warned:
            text = "The storage does not answer; the trained model waits until it does"
            attempt.writer.add_event(NewEvent(text, level="warn"))
            has_warned = True
        if not attempt.outage.wait_for_end(attempt.stop_policy.check):
            raise StopRequested


def _model_id(session: Session, job: Job) -> str:
    return fine_tuned_model_id(job, jobs.project_name(session, job.project_id))


def _publish(attempt: AttemptContext, folder: Path, finished: Finished | None) -> bool:
    files = upload(attempt.worker.storage, attempt.lease, attempt.job, folder)
    metrics = MetricsFile(attempt.worker, attempt.job)
    trained_tokens = finished.trained_tokens if finished else 0
    return _succeed(attempt, folder, files, metrics, trained_tokens)


def upload(storage: Storage, lease: Lease, job: Job, folder: Path) -> list[UploadedFile]:
    """Store every file of the exported model, checked against the list that the trainer made."""
    expected = sums(folder)
    files = []
    for path in files_of(folder):
        lease.check()
        name = path.relative_to(folder).as_posix()
        fault("during_result_upload")
        key = keys.result_file(job.project_id, job.id, job.attempt, name)
        stored = storage.put_file(key, path)
        if name != SHA256SUMS and expected.pop(name, None) != stored.sha256:
            raise ExportDamaged(f"{name} is missing from {SHA256SUMS} or differs from it")
        files.append(UploadedFile(name, key, stored))
    if expected:
        raise ExportDamaged(f"{SHA256SUMS} names files that are not there: {sorted(expected)[:5]}")
    return files


def _succeed(
    attempt: AttemptContext,
    folder: Path,
    files: list[UploadedFile],
    metrics: MetricsFile,
    trained_tokens: int,
) -> bool:
    """Write model, artifacts, metrics and success in one transaction. Return False when the job is
    not ours any more, or the user cancelled first.
    """
    job = attempt.job
    progress = attempt.progress
    claim = attempt.lease.claim
    actual = progress.actual()
    config = json.loads((folder / "config.json").read_bytes())

    def write(session: Session) -> bool:
        model_id = _model_id(session, job)
        model = Model(
            id=model_id,
            project_id=job.project_id,
            base_model_id=job.base_model_id,
            job_id=job.id,
            config=config,
            bytes=sum(file.stored.bytes for file in files),
        )
        is_ours = claims.finish(
            session,
            claim,
            JobStatus.SUCCEEDED,
            NewEvent(f"The job has succeeded; its model is {model_id}", data={"model": model_id}),
            fine_tuned_model_id=model_id,
            trained_tokens=trained_tokens,
            result_file_id=metrics.id,
            **progress.columns | {"progress": progress.snapshot(ended=True)},
            actual=actual,
        )
        if is_ours:
            metrics.add_row(session)
            claims.update_attempt(
                session,
                claim,
                overhead_seconds=progress.overhead_seconds,
                **progress.measured,
            )
            rows = [
                Artifact(model_id=model_id, name=name, storage_key=key, **stored._asdict())
                for name, key, stored in files
            ]
            catalogue.add(session, model, rows)
        return is_ours

    fault("before_finish")
    is_ours = attempt.writer.write_with_retry(write)
    fault("after_finish")
    return is_ours
