"""Run exports: a program of its own writes the files, here they are stored and become a model."""

import json
from pathlib import Path
from typing import NamedTuple

import structlog
from obstore.exceptions import BaseError
from sqlalchemy import select

from app.exports import repository
from app.jobs.checkpoints import best_of
from app.models import Artifact, Checkpoint, Export, Job, Model
from app.models.base import JsonObject
from app.storage import StorageAway, keys
from falqon_core.contract.config import Recipe
from falqon_core.fault_points import fault
from worker.attempt import certificate
from worker.attempt.checkpoint_upload import discard, newest_first
from worker.attempt.scratch import scratch
from worker.attempt.space import require_space
from worker.attempt.staging import data_files, fetch_data
from worker.attempt.trainer import run_tool
from worker.fetching import fetch_artifacts, fetch_checkpoint
from worker.model_cache import Bases
from worker.operations.runner import Heartbeat, OperationAbandoned, OperationRunner, PermanentError
from worker.outputs import files_of

PROVENANCE = ("README.md", "config.json", "LICENSE", "NOTICE")  # beginnings of the files that tell base model and licence
log = structlog.get_logger()


class Wanted(NamedTuple):
    """`artifacts`: of `source`, which is the model that is exported, or the base of the checkpoint that is. `checkpoint`: the one that is
    exported, or that the model was made from, if it is still there."""

    source: Model
    artifacts: list[Artifact]
    job: Job | None
    checkpoint: Checkpoint | None


class Exporter(OperationRunner[Export]):
    kind = Export
    limit_seconds = 3600.0

    def _run(self, operation: Export, check: Heartbeat) -> None:
        wanted = self._wanted(operation)
        with scratch(self._settings.work_dir / "exports", f"{operation.id}.{operation.tries}") as folder:
            made = self._make(operation, wanted, folder, check)
            self._hand_in(operation, wanted, made, check)

    def _wanted(self, export: Export) -> Wanted:
        with self._database.read() as session:
            job = session.get(Job, export.job_id)
            source = session.get(Model, export.source if export.step is None else job.base_model_id if job else "")
            checkpoints = newest_first(session, export.job_id)
            made_from = source.id if source else ""
            artifacts = session.scalars(select(Artifact).where(Artifact.model_id == made_from).order_by(Artifact.name)).all()
        if source is None or (export.step is None and source.deleted_at is not None):
            raise PermanentError("model_not_found", "The model has been deleted meanwhile.")
        return Wanted(source, list(artifacts), job, _checkpoint_of(export, job, checkpoints))

    def _make(self, export: Export, wanted: Wanted, folder: Path, check: Heartbeat) -> Path:
        """The folder of the exported model."""
        if export.step is None and export.format != "lora":
            require_space(folder, 3 * wanted.source.bytes)  # as it is, and in bf16
            source = folder / "source"
            fetch_artifacts(self._storage, wanted.artifacts, source, check)
        elif wanted.checkpoint is None or wanted.job is None:
            raise PermanentError("checkpoint_missing", "The checkpoint that it would be made from has been deleted or was never stored.")
        elif export.format == "lora":
            source = folder / "source"
            fetch_checkpoint(self._storage, wanted.checkpoint, source, check)
            if wanted.source.deleted_at is None:
                provenance = (one for one in wanted.artifacts if one.name.startswith(PROVENANCE))
                fetch_artifacts(self._storage, provenance, source, check)
        else:
            require_space(folder, 2 * wanted.source.bytes)  # in FP8 and in bf16; this is its base
            source = self._merge(export, wanted.job, wanted.checkpoint, folder, check)
        if export.format == "fp8":
            return source
        base_model = wanted.job.requested["model"] if wanted.job else wanted.source.base_model_id or ""
        arguments = ["convert", str(source), "--to", export.format, "--output", str(folder / "made")]
        arguments += ["--name", export.exported_model_id, "--base-model", base_model]
        run_tool(self._settings.trainer_command, arguments, check)
        return folder / "made"

    def _merge(self, export: Export, job: Job, checkpoint: Checkpoint, folder: Path, check: Heartbeat) -> Path:
        """The checkpoint as an FP8 model; with a certificate, unless the files that it was trained on have been deleted."""
        bases = Bases(self._database, self._storage, self._settings, self._owner, check)
        data = self._data(job, folder, check)
        merged = bases.merge(bases.stage(job), job, checkpoint, folder, data)
        if data:
            certificate.complete(merged, job.id, export.source, None)
        return merged

    def _data(self, job: Job, folder: Path, check: Heartbeat) -> list[Path]:
        """Nothing if any of the files is gone: certified is what was trained on all of them."""
        with self._database.read() as session:
            files = data_files(session, job)
        if any(file.deleted_at is not None for file in files):
            return []
        return fetch_data(self._storage, files, folder, check)

    def _hand_in(self, export: Export, wanted: Wanted, folder: Path, check: Heartbeat) -> None:
        artifacts = []
        try:
            for path in files_of(folder):
                check()
                fault("during_export_upload")
                name = path.relative_to(folder).as_posix()
                key = keys.export_file(export.project_id, export.id, export.tries, name)
                stored = self._storage.put_file(key, path)
                artifacts.append(Artifact(model_id=export.exported_model_id, name=name, storage_key=key, **stored._asdict()))
            model = Model(
                id=export.exported_model_id,
                project_id=export.project_id,
                base_model_id=wanted.job.base_model_id if wanted.job else wanted.source.base_model_id,
                job_id=export.job_id,
                format=export.format,
                config=_config(folder) or wanted.source.config,
                bytes=sum(artifact.bytes for artifact in artifacts),
                deleted_at=None,
            )
            fault("before_export_row")
            with self._database.transaction() as session:
                if not repository.complete(session, export, model, artifacts):
                    raise OperationAbandoned
        except StorageAway:
            raise
        except (OperationAbandoned, OSError, BaseError):
            discard(self._storage, keys.export_prefix(export.project_id, export.id, export.tries))
            raise
        log.info("exported", export_id=export.id, model=export.exported_model_id)


def _checkpoint_of(export: Export, job: Job | None, checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """Of the step that is asked for, or whose weights the job handed out: its best with early stopping, else its last."""
    if export.step is not None:
        return next((one for one in checkpoints if one.step == export.step), None)
    if job is None or not checkpoints:
        return None
    if Recipe.model_validate(job.recipe).early_stopping_patience is not None:
        return best_of(checkpoints)
    return checkpoints[0] if checkpoints[0].step == (job.progress or {}).get("step") else None


def _config(folder: Path) -> JsonObject | None:
    path = folder / "config.json"
    found: JsonObject | None = json.loads(path.read_bytes()) if path.is_file() else None
    return found
