"""Bringing everything one attempt reads to this machine, verified by sha256. No transaction is open meanwhile."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog
from sqlalchemy import select

from app.database import Database
from app.models import Artifact, Checkpoint, File, Job
from app.settings import Settings
from app.storage import Storage
from falqon_core.spec.config import Recipe, TrainConfig
from falqon_core.spec.layout import MANIFEST, checkpoint_folder
from worker.checkpoints import best_of, newest_first

log = structlog.get_logger()


class BytesDiffer(Exception):
    """What storage gave is not what the database says was stored."""


class Staged(NamedTuple):
    config: Path
    output: Path
    recipe: Recipe


class _Inputs(NamedTuple):
    files: list[File]
    artifacts: list[Artifact]
    checkpoints: list[Checkpoint]


def stage(database: Database, storage: Storage, settings: Settings, job: Job, folder: Path, check: Callable[[], None]) -> Staged:
    """`check` is called between files and may raise to give up."""
    inputs = _inputs(database, job)
    output = folder / "output"
    output.mkdir(parents=True)
    paths = []
    for name, file in zip(("train.jsonl", "validation.jsonl"), inputs.files, strict=False):
        check()
        _fetch(storage, file.storage_key, folder / name, file.sha256)
        paths.append(folder / name)
    model = _stage_model(storage, settings.work_dir / "models", inputs.artifacts, job.lease_owner or "", check)
    _stage_checkpoints(storage, inputs.checkpoints, output, check)
    recipe = Recipe.model_validate(job.recipe)
    config = TrainConfig(
        model=model,
        train_file=paths[0],
        validation_file=paths[1] if len(paths) > 1 else None,
        recipe=recipe,
        base_model_name=job.base_model_id,
        num_threads=settings.num_threads,
    )
    (folder / "config.json").write_text(config.model_dump_json())
    return Staged(folder / "config.json", output, recipe)


def _inputs(database: Database, job: Job) -> _Inputs:
    with database.read() as session:
        wanted = [id_ for id_ in (job.training_file_id, job.validation_file_id) if id_]
        files = [session.get_one(File, id_) for id_ in wanted]
        artifacts = session.scalars(select(Artifact).where(Artifact.model_id == job.base_model_id).order_by(Artifact.name)).all()
        return _Inputs(files, list(artifacts), newest_first(session, job.id))


def _stage_model(storage: Storage, cache: Path, artifacts: list[Artifact], owner: str, check: Callable[[], None]) -> Path:
    """A folder named by its content: a complete one is used again by every later job of this machine."""
    content = "".join(f"{artifact.name}\0{artifact.sha256}\n" for artifact in artifacts)
    folder = cache / hashlib.sha256(content.encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder
    staging = cache / f".{folder.name}.{owner}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for artifact in artifacts:
            check()
            _fetch(storage, artifact.storage_key, staging / artifact.name, artifact.sha256)
        if not folder.is_dir():  # another worker of this machine may have been faster
            os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _stage_checkpoints(storage: Storage, newest: list[Checkpoint], output: Path, check: Callable[[], None]) -> None:
    """The newest checkpoint whose bytes are what they should be, and the best one, whose model early stopping hands out.

    None at all means a start from step 0.
    """
    usable = next((checkpoint for checkpoint in newest if _stage_checkpoint(storage, checkpoint, output, check)), None)
    best = best_of(newest)
    if usable is not None and best is not None and best.step < usable.step:
        _stage_checkpoint(storage, best, output, check)


def _stage_checkpoint(storage: Storage, checkpoint: Checkpoint, output: Path, check: Callable[[], None]) -> bool:
    target = checkpoint_folder(output, checkpoint.step)
    try:
        _fetch_checkpoint(storage, checkpoint, target, check)
        return True
    except (BytesDiffer, FileNotFoundError, KeyError, ValueError) as error:
        log.warning("checkpoint cannot be used", job_id=checkpoint.job_id, step=checkpoint.step, error=str(error))
        shutil.rmtree(target, ignore_errors=True)
        return False


def _fetch_checkpoint(storage: Storage, checkpoint: Checkpoint, target: Path, check: Callable[[], None]) -> None:
    _fetch(storage, f"{checkpoint.storage_prefix}/{MANIFEST}", target / MANIFEST, checkpoint.manifest_sha256)
    for name, entry in json.loads((target / MANIFEST).read_bytes())["files"].items():
        check()
        _fetch(storage, f"{checkpoint.storage_prefix}/{name}", target / name, entry["sha256"])


def _fetch(storage: Storage, key: str, path: Path, sha256: str) -> None:
    if storage.fetch(key, path).sha256 != sha256:
        raise BytesDiffer(f"{key} is not what was stored")
