"""Fulfilling wishes for other formats: a program of its own writes the files, here they are stored and become a model."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog
from obstore.exceptions import BaseError
from sqlalchemy import select

from app.database import Database
from app.exports import repository
from app.ids import new_id
from app.jobs.checkpoints import best_of
from app.models import Artifact, Checkpoint, Export, Job, Model
from app.models.base import JsonObject
from app.settings import Settings
from app.storage import Storage, keys
from falqon_core.spec.config import Recipe
from falqon_core.spec.errors import is_disk_full
from falqon_core.spec.faults import fault
from worker.bases import BaseMissing, Bases
from worker.checkpoints import discard, newest_first
from worker.fetching import BytesDiffer, fetch, fetch_checkpoint
from worker.looking import Looker
from worker.outputs import files_of
from worker.scratch import scratch
from worker.space import require_space
from worker.trainer import ToolFailed, run_tool

MAX_TRIES = 3  # of workers that were killed, or whose disk or storage failed
LIMIT_SECONDS = 3600.0
PROVENANCE = ("README.md", "config.json", "LICENSE", "NOTICE")  # beginnings of the files that tell base model and licence
log = structlog.get_logger()


class GivenUp(Exception):
    """This worker ends, or the wish is not ours any more."""


class Impossible(Exception):
    """To try again unchanged is useless; with a code and a sentence for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Wanted(NamedTuple):
    """`artifacts`: of `source`, which is the model that is exported, or the base of the checkpoint that is. `checkpoint`: the one that is
    exported, or that the model was made from, if it is still there."""

    source: Model
    artifacts: list[Artifact]
    job: Job | None
    checkpoint: Checkpoint | None


class Exporter(Looker):
    def __init__(self, settings: Settings, database: Database, storage: Storage, drain: threading.Event) -> None:
        super().__init__(drain)
        self._settings = settings
        self._database = database
        self._storage = storage
        self._owner = new_id("export-")

    def _do_next(self) -> bool:
        with self._database.transaction() as session:
            export = repository.claim(session, self._settings.lease.total_seconds())
        if export is None:
            return False
        try:
            if export.tries > MAX_TRIES:
                raise Impossible("export_failed", f"{MAX_TRIES} workers have not come to its end; the log of the last one may say why.")
            self._fulfil(export)
        except GivenUp:
            with self._database.transaction() as session:
                repository.release(session, export)
        except Impossible as error:
            with self._database.transaction() as session:
                repository.fail(session, export, error.code, error.message)
        except (OSError, BaseError) as error:  # the claim grows stale, and then it is tried again
            log.warning("export not done", export_id=export.id, error=str(error), disk_full=is_disk_full(error))
        return True

    def _fulfil(self, export: Export) -> None:
        check = self._heartbeat(export)
        wanted = self._wanted(export)
        try:
            with scratch(self._settings.work_dir / "exports", f"{export.id}.{export.tries}") as folder:
                made = self._make(export, wanted, folder, check)
                self._hand_in(export, wanted, made, check)
        except ToolFailed as error:
            log.warning("export failed", export_id=export.id, error=str(error))
            raise Impossible(error.failure.code, error.failure.message) from None
        except BaseMissing as error:
            raise Impossible("base_model_missing", str(error)) from None
        except (FileNotFoundError, BytesDiffer) as error:
            log.error("export impossible", export_id=export.id, error=str(error))
            raise Impossible("bytes_missing", "What it is made from is not in the storage as it should be.") from None

    def _wanted(self, export: Export) -> Wanted:
        with self._database.read() as session:
            job = session.get(Job, export.job_id)
            source = session.get(Model, export.source if export.step is None else job.base_model_id if job else "")
            checkpoints = newest_first(session, export.job_id)
            made_from = source.id if source else ""
            artifacts = session.scalars(select(Artifact).where(Artifact.model_id == made_from).order_by(Artifact.name)).all()
        if source is None or (export.step is None and source.deleted_at is not None):
            raise Impossible("model_not_found", "The model has been deleted meanwhile.")
        return Wanted(source, list(artifacts), job, _checkpoint_of(export, job, checkpoints))

    def _make(self, export: Export, wanted: Wanted, folder: Path, check: Callable[[], None]) -> Path:
        """The folder of the exported model."""
        if export.step is None and export.format != "lora":
            require_space(folder, 3 * wanted.source.bytes)  # as it is, and in bf16
            source = folder / "source"
            self._fetch(wanted.artifacts, source, check)
        elif wanted.checkpoint is None or wanted.job is None:
            raise Impossible("checkpoint_missing", "The checkpoint that it would be made from has been deleted or was never stored.")
        elif export.format == "lora":
            source = folder / "source"
            fetch_checkpoint(self._storage, wanted.checkpoint, source, check)
            if wanted.source.deleted_at is None:
                self._fetch([one for one in wanted.artifacts if one.name.startswith(PROVENANCE)], source, check)
        else:
            bases = Bases(self._database, self._storage, self._settings, self._owner, check)
            source = bases.merged(wanted.job, wanted.checkpoint)
        if export.format == "fp8":
            return source
        base_model = wanted.job.requested["model"] if wanted.job else wanted.source.base_model_id or ""
        arguments = ["convert", str(source), "--to", export.format, "--output", str(folder / "made")]
        arguments += ["--name", export.exported_model_id, "--base-model", base_model]
        run_tool(self._settings.trainer_command, arguments, check)
        return folder / "made"

    def _fetch(self, artifacts: list[Artifact], folder: Path, check: Callable[[], None]) -> None:
        for artifact in artifacts:
            check()
            fetch(self._storage, artifact.storage_key, folder / keys.relative(artifact.name), artifact.sha256)

    def _hand_in(self, export: Export, wanted: Wanted, folder: Path, check: Callable[[], None]) -> None:
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
                    raise GivenUp
        except (GivenUp, OSError, BaseError):
            discard(self._storage, keys.export_prefix(export.project_id, export.id, export.tries))
            raise
        log.info("exported", export_id=export.id, model=export.exported_model_id)

    def _heartbeat(self, export: Export) -> Callable[[], None]:
        """To be called all the time. Raises `GivenUp`, and `Impossible` when it takes too long."""
        started = renewed = time.monotonic()

        def check() -> None:
            nonlocal renewed
            now = time.monotonic()
            if self._drain.is_set():
                raise GivenUp
            if now > started + LIMIT_SECONDS:
                raise Impossible("too_slow", f"The export took more than {LIMIT_SECONDS / 60:g} minutes.")
            if now > renewed + self._settings.heartbeat.total_seconds():
                with self._database.transaction() as session:
                    if not repository.renew(session, export):
                        raise GivenUp
                renewed = now

        return check


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
