"""Import of base models into the catalogue: another process turns the source into a plain folder,
here its files are stored and named.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.base.database import Database
from app.base.ids import new_id
from app.base.private_dir import private_folder
from app.base.processes.child_process import ChildProcess
from app.base.processes.subprocess_env import hub_environment, offline_environment
from app.base.settings import Settings
from app.base.storage import Storage, keys
from app.base.storage.storage import chunks_of
from app.base.terminal import one_line
from app.catalogue import repository
from app.models import Artifact, Model

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
ID_RULE = "letters, digits, '.', '_' and '-', with at most one '/' between two parts."
TINY_MODEL_ID = "falqon-tiny"
TINY_SOURCE = f"builtin:{TINY_MODEL_ID}"
MAX_CONVERSIONS = 20
MAX_CONVERSION_CHARACTERS = 500


class ModelNotAdded(Exception):
    """The model was not added; the message is for the operator."""


def add_base_model(
    database: Database, storage: Storage, settings: Settings, model_id: str, source: str
) -> list[str] | None:
    """Add it; return, in sentences, the conversions of its source, or None when the same model is
    there already. Raises `ModelNotAdded`, and then nothing stays behind.
    """
    if not MODEL_ID.fullmatch(model_id):
        raise ModelNotAdded(f"'{model_id}' is no model id: {ID_RULE}")
    scratch = private_folder(settings.work_dir / "imports")
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(temporary) / "model"
        conversions = _import_source(settings, source, folder)
        return conversions if add_folder(database, storage, model_id, folder) else None


def read_conversions(output: bytes) -> list[str]:
    """Return the messages that the import has printed, a sentence a line."""
    lines = output.decode(errors="replace").splitlines()[:MAX_CONVERSIONS]
    return [one_line(line)[:MAX_CONVERSION_CHARACTERS] for line in lines]


def ensure_tiny_model(database: Database, storage: Storage, settings: Settings) -> None:
    with database.read() as session:
        if session.get(Model, TINY_MODEL_ID) is not None:
            return
    add_base_model(database, storage, settings, TINY_MODEL_ID, TINY_SOURCE)


def _import_source(settings: Settings, source: str, output: Path) -> list[str]:
    """Make a plain folder of the source; return its conversions."""
    command = [*settings.trainer_command, "import", source, "--output", str(output)]
    environment_for = hub_environment if source.startswith("hf:") else offline_environment
    with ChildProcess(
        command, environment_for(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        printed, errors = process.communicate()
    if process.returncode < 0:
        signal_name = signal.Signals(-process.returncode).name
        raise ModelNotAdded(
            f"The import was ended by {signal_name}; "
            "docs/base-models.md lists its limits of time and memory."
        )
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"The import ended with {process.returncode}."
        raise ModelNotAdded(reason)
    return read_conversions(printed)


def add_folder(
    database: Database,
    storage: Storage,
    model_id: str,
    folder: Path,
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Store the files of a plain folder as a base model; False when the same model is there
    already. `check` is called meanwhile and may raise to abort. Raises `ModelNotAdded`.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    if _same_is_there(database, model_id, files):
        return False
    # Keys of this import alone: of two at once, the later one removes its own bytes and never the
    # winner's.
    version = new_id("")
    stored_keys = {name: keys.base_model_file(model_id, f"{version}/{name}") for name in files}
    try:
        stored = {
            name: storage.put(key, _read_checked(folder / name, check))
            for name, key in stored_keys.items()
        }
        config = json.loads((folder / "config.json").read_bytes())
        size = sum(file.bytes for file in stored.values())
        model = Model(id=model_id, config=config, bytes=size)
        artifacts = [
            Artifact(model_id=model_id, name=name, storage_key=stored_keys[name], **file._asdict())
            for name, file in stored.items()
        ]
        with database.transaction() as session:
            repository.add_base(session, model, artifacts)
    except BaseException as error:
        _remove(storage, keys.base_model_file(model_id, version))
        # Another import finished first.
        if isinstance(error, IntegrityError) and _same_is_there(database, model_id, files):
            return False
        raise
    return True


def _same_is_there(database: Database, model_id: str, files: dict[str, str]) -> bool:
    with database.read() as session:
        model = session.get(Model, model_id)
        if model is None or model.deleted_at is not None:
            return False
        there = dict(
            session.execute(
                select(Artifact.name, Artifact.sha256).where(Artifact.model_id == model_id)
            ).all()
        )
    if there != files:
        raise ModelNotAdded(f"There is a different model '{model_id}' already; choose another id.")
    return True


def _read_checked(path: Path, check: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        for chunk in chunks_of(file):
            check()
            yield chunk


def _remove(storage: Storage, prefix: str) -> None:
    if stored := storage.keys(prefix):
        storage.delete(*stored)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
