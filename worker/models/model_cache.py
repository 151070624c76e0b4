"""The model that training starts from, as a folder on this machine, used again by every later job
that starts from the same bytes.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, Self

from app.artifacts import repository as artifact_rows
from app.attempts.values import Inputs
from app.base.database import Database
from app.base.ids import new_id
from app.base.private_dir import private_folder
from app.base.settings import Settings
from app.jobs import checkpoint_repository
from app.jobs.base_model import began_from
from app.models import Artifact, Checkpoint, Job
from falqon_core.contract.formats import ConvertedFormat, MergedFormat
from falqon_core.contract.layout import checkpoint_folder
from falqon_core.contract.model_folder import read_config
from falqon_core.contract.quantization_config import growth_in_bf16
from worker.context import WorkerContext
from worker.evaluation.card import CARD_NAME
from worker.gateway import ObjectStore
from worker.machine.gpu import num_threads_of
from worker.machine.scratch import scratch
from worker.machine.subprocesses import run_tool
from worker.models.disk_space import require_space
from worker.models.fetching import fetch_artifacts, fetch_checkpoint
from worker.models.model_folders import hold, models_root, staging_root

LOCK_POLL_SECONDS = 0.1
GGUF = "model.gguf"
GGUF_ADAPTER = "adapter.gguf"


class BaseMissing(Exception):
    """The model that the job starts from has been deleted; with a sentence for the user."""


class ModelRows(Protocol):
    """Reads of models from the database."""

    def find_checkpoint(self, checkpoint_id: str) -> tuple[Job, Checkpoint] | None: ...
    def artifacts_of(self, model_id: str) -> Sequence[Artifact]: ...
    def began_from(self, job: Job) -> str: ...


class RowsOfDatabase:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find_checkpoint(self, checkpoint_id: str) -> tuple[Job, Checkpoint] | None:
        with self._database.read() as session:
            return checkpoint_repository.find_with_job(session, checkpoint_id)

    def artifacts_of(self, model_id: str) -> Sequence[Artifact]:
        with self._database.read() as session:
            return artifact_rows.list_of_model(session, model_id)

    def began_from(self, job: Job) -> str:
        with self._database.read() as session:
            return began_from(session, job)


class RowsOfInputs:
    """Rows that one attempt was given."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs

    def find_checkpoint(self, checkpoint_id: str) -> tuple[Job, Checkpoint] | None:
        return self._inputs.bases.get(checkpoint_id)

    def artifacts_of(self, model_id: str) -> Sequence[Artifact]:
        return self._inputs.artifacts[model_id]

    def began_from(self, job: Job) -> str:
        return self._inputs.began_from.get(job.id, job.requested.model)


class ModelCache:
    """Folders of models, by content. They stay until this is closed, and longer where the disk has
    room. `check` is called between files and may raise to give up.
    """

    def __init__(
        self, settings: Settings, rows: ModelRows, storage: ObjectStore, check: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._rows = rows
        self.storage = storage
        self.check = check
        self._held = ExitStack()

    @classmethod
    def of(cls, context: WorkerContext, check: Callable[[], None]) -> Self:
        return cls(context.settings, RowsOfDatabase(context.database), context.storage, check)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def stage(self, job: Job) -> Path:
        """Return the folder of the job's base model, or of the checkpoint that it continues from,
        merged into that. Raises `BaseMissing`.
        """
        if job.base_checkpoint_id is None:
            return self.model(job.base_model_id)
        row = self._rows.find_checkpoint(job.base_checkpoint_id)
        if row is None:
            raise BaseMissing(f"The checkpoint that {job.id} continues from has been deleted.")
        return self.merged(*row)

    def began_from(self, job: Job) -> str:
        """Return the name of the model that `stage` returns."""
        return self._rows.began_from(job)

    def merged(self, trained: Job, checkpoint: Checkpoint) -> Path:
        """Return the folder of a checkpoint of `trained` as a model. Raises `BaseMissing`."""
        base = self.stage(trained)
        folder = self._folder(f"{base.name}\0{checkpoint.manifest_sha256}\n")
        while not self._is_held(folder):
            with self._alone(folder):
                if folder.is_dir():
                    continue
                with self._whole(folder) as staging:
                    model = self.merge(base, trained, checkpoint, staging)
                    shutil.rmtree(staging / "training")
                    for path in model.iterdir():
                        path.rename(staging / path.name)
                    model.rmdir()
        return folder

    def merge(
        self,
        base: Path,
        trained: Job,
        checkpoint: Checkpoint,
        folder: Path,
        data: Sequence[Path] = (),
        format: MergedFormat | None = None,
        name: str = "model",
    ) -> Path:
        """Write `folder`/model, the checkpoint merged into its base; certify it on `data`, if there
        is any. Without a `format` it is the one that trained; `name` is for those that show one.
        `folder`/training can go then.
        """
        training = folder / "training"
        model = folder / "model"
        fetch_checkpoint(
            self.storage, checkpoint, checkpoint_folder(training, checkpoint.step), self.check
        )
        arguments = ["export", str(training), "--step", str(checkpoint.step), "--model", str(base)]
        arguments += ["--base-model", self.began_from(trained), "--output", str(model)]
        arguments += ["--to", format or trained.weights, "--name", name]
        if num_threads := num_threads_of(self._settings):
            arguments += ["--num-threads", str(num_threads)]
        for option, path in zip(("--train-file", "--validation-file"), data, strict=False):
            arguments += [option, str(path)]
        run_tool(self._settings.trainer_command, arguments, self.check)
        return model

    def model(self, model_id: str) -> Path:
        """Return the folder of a model of the catalogue, without the card of its evaluation: a new
        one would make a new folder of the same model.
        """
        artifacts = [
            artifact for artifact in self._rows.artifacts_of(model_id) if artifact.name != CARD_NAME
        ]
        content = "".join(f"{artifact.name}\0{artifact.sha256}\n" for artifact in artifacts)
        folder = self._folder(content)
        while not self._is_held(folder):
            self._require_space(sum(artifact.bytes for artifact in artifacts))
            with self._alone(folder):
                if folder.is_dir():
                    continue
                with self._whole(folder) as staging:
                    fetch_artifacts(self.storage, artifacts, staging, self.check)
        return folder

    def has_files(self, model_id: str) -> bool:
        """Return False for a model that has been deleted."""
        return bool(self._rows.artifacts_of(model_id))

    def gguf(self, model_id: str) -> Path:
        """Return a model of the catalogue as one GGUF file."""
        source = self.model(model_id)
        if (source / GGUF).is_file():
            return source / GGUF
        return self._converted(source, "gguf", model_id) / GGUF

    def bf16(self, model_id: str) -> Path:
        """Return the folder of a quantized model of the catalogue as plain bf16."""
        return self._converted(self.model(model_id), "bf16", model_id)

    def peft_adapter(self, model_id: str, base: Path) -> Path:
        """Return an adapter for llama.cpp as a folder of PEFT's; `base` is that of its base."""
        source = self.model(model_id)
        return self._converted(source, "lora", model_id, "--base-folder", str(base))

    def _converted(
        self, source: Path, format: ConvertedFormat, model_id: str, *options: str
    ) -> Path:
        folder = self._folder(f"{source.name}\0{format}\n")
        while not self._is_held(folder):
            is_model = (source / "config.json").is_file()  # An adapter's folder has none.
            growth = growth_in_bf16(read_config(source) if is_model else {})
            self._require_space(growth * sum(path.stat().st_size for path in source.iterdir()))
            with self._alone(folder):
                if folder.is_dir():
                    continue
                with self._whole(folder) as staging:
                    arguments = ["convert", str(source), "--to", format]
                    arguments += ["--output", str(staging / format), "--name", model_id, *options]
                    run_tool(self._settings.trainer_command, arguments, self.check)
        return folder / format

    def _folder(self, content: str) -> Path:
        name = hashlib.sha256(content.encode()).hexdigest()[:32]
        return models_root(self._settings.work_dir) / name

    def _is_held(self, folder: Path) -> bool:
        """Return True if the folder is there, and stays."""
        descriptor = hold(folder)
        if descriptor is not None:
            self._held.callback(os.close, descriptor)
        return descriptor is not None

    def _require_space(self, num_bytes: int) -> None:
        require_space(self._settings.work_dir, self._settings.work_dir, num_bytes)

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Wait until no one else on this machine fills the folder: to convert a model takes memory
        for all of it, and all adapters of a base that are asked at once need the same one.
        """
        locks = self._settings.work_dir / "filling"
        private_folder(locks)
        descriptor = os.open(locks / folder.name[:2], os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _is_locked(descriptor):
                self.check()
                time.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _whole(self, folder: Path) -> Iterator[Path]:
        """Fill it under another name, so that the folder is there whole or not at all."""
        private_folder(folder.parent)
        with scratch(staging_root(self._settings.work_dir), new_id("")) as staging:
            yield staging
            if not folder.is_dir():  # Another worker of this machine may have been faster.
                os.rename(staging, folder)


def _is_locked(descriptor: int) -> bool:
    """Take the lock of a file, if no one else has it. It ends with the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
