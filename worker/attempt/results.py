"""A finished model: its files into storage, then its rows together with the job's success. A range
test has neither.
"""

import json
from pathlib import Path

from app.attempts.values import AttemptMeasurements, TrainingResult, UploadedFile
from app.base.storage import StorageUnavailable, keys
from app.jobs.events import NewEvent
from app.models import Job
from app.models.base import JsonObject
from falqon_core.contract.layout import SHA256SUMS
from falqon_core.contract.messages import Finished
from falqon_core.fault_points import fault
from worker.attempt.certificate import ExportDamaged, add_service_facts, sums
from worker.attempt.context import AttemptContext
from worker.attempt.lease import Lease
from worker.attempt.stop_policy import StopRequested
from worker.gateway import ObjectStore
from worker.models.outputs import files_of


def publish_with_retry(
    attempt: AttemptContext, model_id: str, folder: Path, finished: Finished | None
) -> bool:
    """Publish the result, and wait for an unavailable storage as long as the lease lasts and nobody
    wants a stop. Return False if the user cancelled first.
    """
    fault("before_hand_in")
    add_service_facts(folder, attempt.job.id, model_id, attempt.progress.snapshot().cost)
    has_warned = False
    while True:
        try:
            return _publish(attempt, folder, finished)
        except StorageUnavailable as error:
            attempt.outage.begin(error)
        if not has_warned:
            text = "The storage does not answer; the trained model waits until it does"
            attempt.writer.add_event(NewEvent(text, level="warn"))
            has_warned = True
        if not attempt.outage.wait_for_end(attempt.stop_policy.check):
            raise StopRequested


def _publish(attempt: AttemptContext, folder: Path, finished: Finished | None) -> bool:
    files = upload(attempt.storage, attempt.lease, attempt.job, folder)
    config = json.loads((folder / "config.json").read_bytes())
    return publish(attempt, finished, files, config)


def publish(
    attempt: AttemptContext,
    finished: Finished | None,
    files: list[UploadedFile],
    config: JsonObject,
) -> bool:
    """Write the job's success, with the model of these stored files; without any, with no model."""
    progress = attempt.progress
    actual = progress.actual()

    def write() -> bool:
        # That of a range test has no export, and estimates are made of it.
        overhead_seconds = progress.overhead_seconds if files else None
        result = TrainingResult(
            files=files,
            config=config,
            trained_tokens=finished.trained_tokens if finished else 0,
            columns=progress.last_columns,
            measured=AttemptMeasurements(overhead_seconds=overhead_seconds, **progress.measured),
            actual=actual,
        )
        return attempt.gateway.publish(attempt.job, attempt.lease.claim, result)

    fault("before_finish")
    is_ours = attempt.writer.write_end(write)
    fault("after_finish")
    return is_ours


def upload(storage: ObjectStore, lease: Lease, job: Job, folder: Path) -> list[UploadedFile]:
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
        files.append(UploadedFile(name, stored))
    if expected:
        raise ExportDamaged(f"{SHA256SUMS} names files that are not there: {sorted(expected)[:5]}")
    return files
