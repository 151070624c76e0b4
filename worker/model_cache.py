"""The model that training starts from, as a folder on this machine, used again by every later job that starts from the same bytes."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from app.database import Database
from app.models import Artifact, Checkpoint, Job
from app.private_dir import private_folder
from app.settings import Settings
from app.storage import Storage
from falqon_core.contract.layout import checkpoint_folder
from worker.attempt.space import require_space
from worker.attempt.trainer import run_tool
from worker.fetching import fetch_artifacts, fetch_checkpoint


class BaseMissing(Exception):
    """What the job starts from has been deleted; with a sentence for the user."""


class Bases:
    """`check` is called between files and may raise to give up."""

    def __init__(self, database: Database, storage: Storage, settings: Settings, owner: str, check: Callable[[], None]) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._owner = owner
        self._check = check

    def stage(self, job: Job) -> Path:
        """The folder of the job's base model, or of the checkpoint that it continues from, merged into that. Raises `BaseMissing`."""
        if job.base_checkpoint_id is None:
            return self.model(job.base_model_id)
        with self._database.read() as session:
            checkpoint = session.get(Checkpoint, job.base_checkpoint_id)
            trained = None if checkpoint is None else session.get(Job, checkpoint.job_id)
        if checkpoint is None or trained is None:
            raise BaseMissing(f"The checkpoint that {job.id} continues from has been deleted.")
        return self.merged(trained, checkpoint)

    def merged(self, trained: Job, checkpoint: Checkpoint) -> Path:
        """The folder of a checkpoint of the job `trained` as an FP8 model. Raises `BaseMissing`."""
        base = self.stage(trained)
        folder = self._folder(f"{base.name}\0{checkpoint.manifest_sha256}\n")
        if not folder.is_dir():
            with self._whole(folder) as staging:
                model = self.merge(base, trained, checkpoint, staging)
                shutil.rmtree(staging / "training")
                for path in model.iterdir():
                    path.rename(staging / path.name)
                model.rmdir()
        return folder

    def merge(self, base: Path, trained: Job, checkpoint: Checkpoint, folder: Path, data: Sequence[Path] = ()) -> Path:
        """`folder`/model: the checkpoint merged into its base; certified on `data`, if there is any. `folder`/training can go then."""
        training, model = folder / "training", folder / "model"
        fetch_checkpoint(self._storage, checkpoint, checkpoint_folder(training, checkpoint.step), self._check)
        arguments = ["export", str(training), "--step", str(checkpoint.step), "--model", str(base)]
        arguments += ["--base-model", trained.requested["model"], "--output", str(model)]
        for option, path in zip(("--train-file", "--validation-file"), data, strict=False):
            arguments += [option, str(path)]
        run_tool(self._settings.trainer_command, arguments, self._check)
        return model

    def model(self, model_id: str) -> Path:
        """The folder of a model of the catalogue."""
        with self._database.read() as session:
            artifacts = session.scalars(select(Artifact).where(Artifact.model_id == model_id).order_by(Artifact.name)).all()
        content = "".join(f"{artifact.name}\0{artifact.sha256}\n" for artifact in artifacts)
        folder = self._folder(content)
        if not folder.is_dir():
            require_space(self._settings.work_dir, sum(artifact.bytes for artifact in artifacts))
            with self._whole(folder) as staging:
                fetch_artifacts(self._storage, artifacts, staging, self._check)
        return folder

    def _folder(self, content: str) -> Path:
        return self._settings.work_dir / "models" / hashlib.sha256(content.encode()).hexdigest()[:32]

    @contextmanager
    def _whole(self, folder: Path) -> Iterator[Path]:
        """Filled under another name, so that the folder is there whole or not at all."""
        staging = folder.with_name(f".{folder.name}.{self._owner}")
        shutil.rmtree(staging, ignore_errors=True)
        private_folder(staging.parent)
        staging.mkdir(mode=0o700)
        try:
            yield staging
            if not folder.is_dir():  # another worker of this machine may have been faster
                os.rename(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
