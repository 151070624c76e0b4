"""A finished model: its files into storage, then its rows together with the job's success."""

import json
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalogue.naming import fine_tuned_model_id
from app.jobs import claims
from app.jobs.events import NewEvent
from app.models import Artifact, Job, JobStatus, Model, Project
from app.storage import Storage, keys
from falqon_core.fault_points import fault
from worker.attempt.certificate import SUMS, ExportDamaged, sums
from worker.attempt.lease import Lease
from worker.attempt.metrics_file import MetricsFile
from worker.attempt.progress import Progress
from worker.attempt.writer import AttemptWriter
from worker.outputs import files_of


def model_id_of(session: Session, job: Job) -> str:
    project = session.scalar(select(Project.name).where(Project.id == job.project_id))
    return fine_tuned_model_id(job, project or "")


def upload(storage: Storage, lease: Lease, job: Job, folder: Path) -> list[Artifact]:
    """Every file of the exported model, checked against the list that the trainer made; rows without a model yet."""
    expected = sums(folder)
    artifacts = []
    for path in files_of(folder):
        lease.check()
        name = path.relative_to(folder).as_posix()
        fault("during_result_upload")
        key = keys.result_file(job.project_id, job.id, job.attempt, name)
        stored = storage.put_file(key, path)
        if name != SUMS and expected.pop(name, None) != stored.sha256:
            raise ExportDamaged(f"{name} is missing from {SUMS} or differs from it")
        artifacts.append(Artifact(name=name, storage_key=key, **stored._asdict()))
    if expected:
        raise ExportDamaged(f"{SUMS} names files that are not there: {sorted(expected)[:5]}")
    return artifacts


def succeed(
    writer: AttemptWriter,
    progress: Progress,
    job: Job,
    folder: Path,
    artifacts: list[Artifact],
    metrics: MetricsFile,
    trained_tokens: int,
) -> bool:
    """Model, artifacts, metrics and success in one transaction. False: not ours any more, or the user cancelled first."""
    actual = progress.actual()
    config = json.loads((folder / "config.json").read_bytes())

    def write(session: Session) -> bool:
        model_id = model_id_of(session, job)
        model = Model(
            id=model_id,
            project_id=job.project_id,
            base_model_id=job.base_model_id,
            job_id=job.id,
            config=config,
            bytes=sum(artifact.bytes for artifact in artifacts),
        )
        held = claims.finish(
            session,
            writer.claim,
            JobStatus.SUCCEEDED,
            NewEvent(f"The job has succeeded; its model is {model_id}", data={"model": model_id}),
            fine_tuned_model_id=model_id,
            trained_tokens=trained_tokens,
            result_file_id=metrics.id,
            **progress.columns | {"progress": progress.snapshot(ended=True)},
            actual=actual.model_dump(mode="json") if actual else None,
        )
        if held:
            metrics.add_row(session)
            claims.update_attempt(session, writer.claim, overhead_seconds=progress.overhead_seconds, **progress.measured)
            session.add(model)
            session.flush()
            session.add_all(
                Artifact(
                    model_id=model_id,
                    name=one.name,
                    bytes=one.bytes,
                    sha256=one.sha256,
                    block_sha256=one.block_sha256,
                    storage_key=one.storage_key,
                )
                for one in artifacts
            )
        return held

    fault("before_finish")
    held = writer.write_with_retry(write)
    fault("after_finish")
    return held
