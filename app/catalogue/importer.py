"""Base models into the catalogue: another process turns the source into a plain folder, here its files are stored and named."""

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from app.database import Database
from app.ids import new_id
from app.models import Artifact, Model
from app.private_dir import private_folder
from app.processes.parent_death import leashed
from app.processes.subprocess_env import hub_environment, offline_environment
from app.settings import Settings
from app.storage import Storage, keys

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
TINY_MODEL_ID = "falqon-tiny"
TINY_SOURCE = f"builtin:{TINY_MODEL_ID}"


class ModelNotAdded(Exception):
    """With a sentence for the person who asked."""


def add_base_model(database: Database, storage: Storage, settings: Settings, model_id: str, source: str) -> bool:
    """False when the very same model is there already. Raises `ModelNotAdded`, and then nothing stays behind."""
    if not ID.fullmatch(model_id):
        raise ModelNotAdded(f"'{model_id}' is no model id: letters, digits, '.', '_' and '-', with at most one '/' between two parts.")
    scratch = private_folder(settings.work_dir / "imports")
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(temporary) / "model"
        _bring(settings, source, folder)
        return _add_folder(database, storage, model_id, folder)


def ensure_tiny_model(database: Database, storage: Storage, settings: Settings) -> None:
    with database.read() as session:
        if session.get(Model, TINY_MODEL_ID) is not None:
            return
    add_base_model(database, storage, settings, TINY_MODEL_ID, TINY_SOURCE)


def _bring(settings: Settings, source: str, output: Path) -> None:
    command = [*settings.trainer_command, "import", source, "--output", str(output)]
    environment = (hub_environment if source.startswith("hf:") else offline_environment)(os.environ)
    done = subprocess.run(leashed(command), env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
        raise ModelNotAdded(f"The import was ended by {ended}; docs/models.md tells its limits of time and memory.")
    if done.returncode != 0:
        raise ModelNotAdded(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"The import ended with {done.returncode}.")


def _add_folder(database: Database, storage: Storage, model_id: str, folder: Path) -> bool:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    if _same_is_there(database, model_id, files):
        return False
    # Keys of this import alone: of two at once, the one that comes too late removes its own bytes and never the winner's.
    version = new_id("")
    stored_keys = {name: keys.base_model_file(model_id, f"{version}/{name}") for name in files}
    try:
        stored = {name: storage.put_file(key, folder / name) for name, key in stored_keys.items()}
        with database.transaction() as session:
            size = sum(one.bytes for one in stored.values())
            session.add(Model(id=model_id, config=json.loads((folder / "config.json").read_bytes()), bytes=size))
            session.flush()
            session.add_all(
                Artifact(model_id=model_id, name=name, storage_key=stored_keys[name], **one._asdict()) for name, one in stored.items()
            )
    except BaseException as error:
        _remove(storage, keys.base_model_file(model_id, version))
        if isinstance(error, IntegrityError) and _same_is_there(database, model_id, files):  # somebody else was faster
            return False
        raise
    return True


def _same_is_there(database: Database, model_id: str, files: dict[str, str]) -> bool:
    with database.read() as session:
        if session.get(Model, model_id) is None:
            return False
        there = dict(session.execute(select(Artifact.name, Artifact.sha256).where(Artifact.model_id == model_id)).all())
    if there != files:
        raise ModelNotAdded(f"There is a different model '{model_id}' already; choose another id.")
    return True


def _remove(storage: Storage, prefix: str) -> None:
    if stored := storage.keys(prefix):
        storage.delete(*stored)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
