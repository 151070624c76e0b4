"""Make exports: a program of its own writes the files, here they are stored and become a model."""

import json
from dataclasses import dataclass
from pathlib import Path

import structlog
from obstore.exceptions import BaseError

from app.artifacts import repository as artifact_rows
from app.base.database import now_plus
from app.base.storage import StorageUnavailable, keys
from app.catalogue import repository as catalogue
from app.exports import repository
from app.jobs import checkpoint_repository
from app.jobs import repository as jobs
from app.jobs.base_model import began_from
from app.jobs.checkpoints import best_of
from app.models import Artifact, Checkpoint, Export, Job, Model
from app.models.base import JsonObject
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.formats import (
    ADAPTERS,
    FROM_CHECKPOINT,
    QUANTIZED_GGUF,
    TRAINED_FORMATS,
)
from falqon_core.contract.quantization_config import growth_in_bf16
from falqon_core.contract.rounding import ROUNDING, Rounding
from falqon_core.fault_points import fault
from worker.attempt import certificate
from worker.attempt.checkpoint_upload import discard
from worker.attempt.staging import data_files, fetch_data
from worker.machine.subprocesses import run_tool
from worker.models.fetching import fetch_artifacts, fetch_checkpoint
from worker.models.model_cache import ModelCache
from worker.models.outputs import files_of
from worker.operations.handler import (
    Heartbeat,
    OperationAbandoned,
    OperationHandler,
    PermanentError,
)

# Beginnings of the names of files that name base model and licence.
PROVENANCE_NAMES = ("README.md", "config.json", "LICENSE", "NOTICE")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ExportInputs:
    """`artifacts`: of `source`, which is the model that is exported, or the base of the checkpoint
    that is. `checkpoint`: the one that is exported, or that the model was made from, if it is still
    there. `base_model`: the model that the training began from.
    """

    source: Model
    artifacts: list[Artifact]
    job: Job | None
    checkpoint: Checkpoint | None
    base_model: str


class ExportHandler(OperationHandler[Export]):
    kind = Export
    limit_seconds = 3600.0

    def _run(self, operation: Export, heartbeat: Heartbeat) -> None:
        inputs = self._inputs(operation)
        with self._scratch(operation) as folder:
            output = self._write_model(operation, inputs, folder, heartbeat)
            self._publish(operation, inputs, output, heartbeat)

    def _inputs(self, export: Export) -> ExportInputs:
        with self._database.read() as session:
            job = jobs.find_in_any_project(session, export.job_id)
            source_id = export.source
            if export.step is not None:
                source_id = job.base_model_id if job else ""
            source = catalogue.find_in_any_project(session, source_id)
            checkpoints = checkpoint_repository.of_job(session, export.job_id)
            artifacts = artifact_rows.list_of_model(session, source_id)
            base_model = began_from(session, job) if job else None
        if source is None or (export.step is None and source.deleted_at is not None):
            raise PermanentError("model_not_found", "The model has been deleted meanwhile.")
        return ExportInputs(
            source,
            artifacts,
            job,
            checkpoint=_checkpoint_of(export, job, checkpoints),
            base_model=base_model or source.base_model_id or "",
        )

    def _write_model(
        self, export: Export, inputs: ExportInputs, folder: Path, heartbeat: Heartbeat
    ) -> Path:
        """Return the folder of the exported model."""
        if export.step is None and export.format not in FROM_CHECKPOINT:
            # The model as it is, and in bf16.
            growth = growth_in_bf16(inputs.source.config)
            self._require_space(folder, (1 + growth) * inputs.source.bytes)
            source = folder / "source"
            fetch_artifacts(self._storage, inputs.artifacts, source, heartbeat)
        elif inputs.checkpoint is None or inputs.job is None:
            raise PermanentError(
                "checkpoint_missing",
                "The checkpoint that it would be made from has been deleted or was never stored.",
            )
        elif export.format in ADAPTERS:
            source = folder / "source"
            fetch_checkpoint(self._storage, inputs.checkpoint, source, heartbeat)
            if inputs.source.deleted_at is None:
                provenance = (
                    artifact
                    for artifact in inputs.artifacts
                    if artifact.name.startswith(PROVENANCE_NAMES)
                )
                fetch_artifacts(self._storage, provenance, source, heartbeat)
        else:
            # The merge needs room for FP8 and bf16; this is its base, or the FP8 model that is
            # larger than in INT4.
            self._require_space(folder, 2 * inputs.source.bytes)
            source = self._merge(export, inputs.job, inputs.checkpoint, folder, heartbeat)
        if export.format in (*TRAINED_FORMATS, "q4_1"):
            return source
        arguments = ["convert", str(source), "--to", export.format]
        arguments += ["--output", str(folder / "output")]
        arguments += ["--name", export.exported_model_id, "--base-model", inputs.base_model]
        with ModelCache.of(self._context, heartbeat) as model_cache:
            if export.format in QUANTIZED_GGUF and inputs.job is not None:
                arguments += self._training(inputs.job, source, folder, heartbeat)
            elif export.format == "gguf_lora" and inputs.job is not None and export.step is None:
                arguments += self._comparison(inputs, inputs.job, model_cache, folder, heartbeat)
            run_tool(self._settings.trainer_command, arguments, heartbeat)
        return folder / "output"

    def _comparison(
        self,
        inputs: ExportInputs,
        job: Job,
        model_cache: ModelCache,
        folder: Path,
        heartbeat: Heartbeat,
    ) -> list[str]:
        """Return the options that have an adapter compared with its model; none where the rows,
        the model or its base are gone.
        """
        if inputs.source.deleted_at is not None or not model_cache.has_files(job.base_model_id):
            return []
        training = self._training(job, model_cache.stage(job), folder, heartbeat)
        return [*training, "--merged", str(model_cache.model(inputs.source.id))] if training else []

    def _training(self, job: Job, model: Path, folder: Path, heartbeat: Heartbeat) -> list[str]:
        """Return the option that names the rows to measure on; none where they are gone."""
        data = self._data(job, folder, heartbeat)
        if job.recipe is None or not data:
            return []
        config = TrainConfig(
            model=model,
            train_file=data[0],
            validation_file=data[1] if len(data) > 1 else None,
            recipe=job.recipe,
        )
        config.write(folder / "training.json")
        return ["--training", str(folder / "training.json")]

    def _merge(
        self, export: Export, job: Job, checkpoint: Checkpoint, folder: Path, heartbeat: Heartbeat
    ) -> Path:
        """The checkpoint as a model, with a certificate unless the files that it was trained on
        have been deleted; or as an INT4 one, with none.
        """
        with ModelCache.of(self._context, heartbeat) as model_cache:
            base = model_cache.stage(job)
            if export.format == "q4_1":
                name = export.exported_model_id
                return model_cache.merge(base, job, checkpoint, folder, format="q4_1", name=name)
            data = self._data(job, folder, heartbeat)
            merged = model_cache.merge(base, job, checkpoint, folder, data)
        if data:
            certificate.add_service_facts(merged, job.id, export.source, None)
        return merged

    def _data(self, job: Job, folder: Path, heartbeat: Heartbeat) -> list[Path]:
        """Return None if a file is gone: only a model trained on all of them is certified."""
        with self._database.read() as session:
            files = data_files(session, job)
        if any(file.deleted_at is not None for file in files):
            return []
        return fetch_data(self._storage, files, folder, heartbeat)

    def _publish(
        self, export: Export, inputs: ExportInputs, folder: Path, heartbeat: Heartbeat
    ) -> None:
        artifacts = []
        try:
            for path in files_of(folder):
                heartbeat()
                fault("during_export_upload")
                name = path.relative_to(folder).as_posix()
                key = keys.export_file(export.project_id, export.id, export.attempt, name)
                stored = self._storage.put_file(key, path)
                artifacts.append(
                    Artifact(
                        model_id=export.exported_model_id,
                        name=name,
                        storage_key=key,
                        **stored._asdict(),
                    )
                )
            model = Model(
                id=export.exported_model_id,
                project_id=export.project_id,
                base_model_id=(inputs.job or inputs.source).base_model_id,
                job_id=export.job_id,
                format=export.format,
                config=_config(folder) or inputs.source.config,
                bytes=sum(artifact.bytes for artifact in artifacts),
                deleted_at=None,
                used_at=now_plus(),
            )
            rounding = _rounding(folder)
            fault("before_export_row")
            with self._database.transaction() as session:
                if not repository.complete(session, export, model, artifacts, rounding):
                    raise OperationAbandoned
        except StorageUnavailable:
            raise
        except (OperationAbandoned, OSError, BaseError):
            discard(self._storage, keys.export_prefix(export.project_id, export.id, export.attempt))
            raise
        log.info("exported", export_id=export.id, model=export.exported_model_id)


def _checkpoint_of(
    export: Export, job: Job | None, checkpoints: list[Checkpoint]
) -> Checkpoint | None:
    """Return the checkpoint of the step that is asked for, or whose weights the job handed out."""
    if export.step is not None:
        return next((item for item in checkpoints if item.step == export.step), None)
    if job is None or not checkpoints:
        return None
    if job.progress is not None and job.progress.model_step is not None:
        return next((item for item in checkpoints if item.step == job.progress.model_step), None)
    # Jobs from before that was recorded: their best with early stopping, else their last.
    if job.recipe is not None and job.recipe.early_stopping_patience is not None:
        return best_of(checkpoints)
    newest = checkpoints[0]
    return newest if job.progress is not None and newest.step == job.progress.step else None


def _rounding(folder: Path) -> Rounding | None:
    path = folder / ROUNDING
    return Rounding.model_validate_json(path.read_bytes()) if path.is_file() else None


def _config(folder: Path) -> JsonObject | None:
    path = folder / "config.json"
    config: JsonObject | None = json.loads(path.read_bytes()) if path.is_file() else None
    return config
