"""Bringing everything one attempt reads to this machine, verified by sha256. No transaction is open
meanwhile.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from app.attempts.values import Inputs
from app.base.settings import Settings
from app.jobs import repository
from app.jobs.checkpoints import best_of
from app.models import Checkpoint, File, Job
from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.layout import checkpoint_folder
from worker.gateway import ObjectStore
from worker.machine.gpu import Machine, num_threads_of
from worker.models.disk_space import check_space
from worker.models.fetching import BytesDiffer, fetch, fetch_checkpoint
from worker.models.model_cache import ModelCache

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Staged:
    config: Path
    output: Path
    recipe: Recipe


def stage(
    settings: Settings,
    model_cache: ModelCache,
    job: Job,
    inputs: Inputs,
    machine: Machine,
    folder: Path,
) -> Staged:
    """Fetch what the attempt reads, through the storage of `model_cache`, whose `check` may raise
    to give up. Raises `BaseMissing`.
    """
    storage, check = model_cache.storage, model_cache.check
    output = folder / "output"
    output.mkdir(parents=True)
    paths = fetch_data(storage, inputs.files, folder, check)
    model = model_cache.stage(job)
    check_space(job, inputs, settings.work_dir, settings.work_dir, storage.local_root)
    _stage_checkpoints(storage, inputs.checkpoints, output, check)
    recipe = job.recipe
    assert recipe is not None, "a job has its recipe before it is queued"
    config = TrainConfig(
        model=model,
        train_file=paths[0],
        validation_file=paths[1] if len(paths) > 1 else None,
        recipe=recipe,
        base_model_name=model_cache.began_from(job),
        device="cuda" if machine.is_gpu else "cpu",
        device_name=machine.device if machine.is_gpu else "",
        num_threads=num_threads_of(settings),
    )
    config.write(folder / "config.json")
    return Staged(folder / "config.json", output, recipe)


def data_files(session: Session, job: Job) -> list[File]:
    """Return the training file and, if the job has one, the validation file."""
    return list(repository.files_of(session, job).values())


def fetch_data(
    storage: ObjectStore, files: Sequence[File], folder: Path, check: Callable[[], None]
) -> list[Path]:
    paths = []
    for name, file in zip(("train.jsonl", "validation.jsonl"), files, strict=False):
        check()
        fetch(storage, file.storage_key, folder / name, file.sha256)
        paths.append(folder / name)
    return paths


def _stage_checkpoints(
    storage: ObjectStore, newest: Sequence[Checkpoint], output: Path, check: Callable[[], None]
) -> None:
    """Fetch the newest checkpoint whose bytes are what they should be, and the best one, whose
    model early stopping hands out. None at all means a start from step 0.
    """
    usable = next(
        (
            checkpoint
            for checkpoint in newest
            if _stage_checkpoint(storage, checkpoint, output, check)
        ),
        None,
    )
    best = best_of(newest)
    if usable is not None and best is not None and best.step < usable.step:
        _stage_checkpoint(storage, best, output, check)


def _stage_checkpoint(
    storage: ObjectStore, checkpoint: Checkpoint, output: Path, check: Callable[[], None]
) -> bool:
    target = checkpoint_folder(output, checkpoint.step)
    try:
        fetch_checkpoint(storage, checkpoint, target, check)
        return True
    except (BytesDiffer, FileNotFoundError, KeyError, ValueError) as error:
        log.warning(
            "checkpoint cannot be used",
            job_id=checkpoint.job_id,
            step=checkpoint.step,
            error=str(error),
        )
        shutil.rmtree(target, ignore_errors=True)
        return False
