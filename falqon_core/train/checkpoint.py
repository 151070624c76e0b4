"""Resumable state on disk: complete or absent, verified before it is read.

    checkpoints/<step>/method.safetensors      what the method needs beside the base model
                       optimizer.safetensors   moments and step counts
                       state.json              `TrainState`: step, loader position, counts, history
                       manifest.json           bytes and sha256 of each of these

A folder is written beside its place, flushed and renamed, so a crash leaves the previous one. There is no random state: nothing
draws numbers after the start (the loader's order is a function of seed and epoch, A is stored, there is no dropout).
What is given up: no deltas between checkpoints; each is whole.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from falqon_core.export.model_card import TrainingRow
from falqon_core.files import whole_folder
from falqon_core.spec.config import Recipe
from falqon_core.spec.errors import CheckpointCorrupt

MANIFEST = "manifest.json"


class TrainState(BaseModel):
    """Where the loop is. `recipe` (resolved) and `num_tokens` (of the training data) tell whether a checkpoint belongs to a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Recipe
    num_tokens: int
    step: int = 0
    trained_tokens: int = 0
    loader: dict[str, int] = {}
    history: list[TrainingRow] = []


class Checkpoint(NamedTuple):
    state: TrainState
    method: dict[str, Tensor]
    optimizer: dict[str, Tensor]


class Saved(NamedTuple):
    path: Path
    bytes: int
    manifest_sha256: str


def save(folder: Path, state: TrainState, method: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], keep: int) -> Saved:
    """Write `folder/<step>` and drop all but the newest `keep`."""
    path = folder / str(state.step)
    with whole_folder(path) as staging:
        save_file({name: tensor.contiguous() for name, tensor in method.items()}, staging / "method.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in optimizer.items()}, staging / "optimizer.safetensors")
        (staging / "state.json").write_text(state.model_dump_json())
        files = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(staging.iterdir())}
        manifest = json.dumps({"step": state.step, "files": files}, indent=1).encode()
        (staging / MANIFEST).write_bytes(manifest)
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old)
    return Saved(path, sum(file.stat().st_size for file in path.iterdir()), hashlib.sha256(manifest).hexdigest())


def load_newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; each damaged one is reported to `warn` and passed over."""
    for path in _newest_first(folder):
        try:
            return _load(path)
        except CheckpointCorrupt as error:
            warn(f"Checkpoint {path.name} is damaged ({error}); using the one before")
    return None


def _load(path: Path) -> Checkpoint:
    """Raises `CheckpointCorrupt` unless every file is exactly what the manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        for name, entry in manifest["files"].items():
            if _sha256(path / name) != entry["sha256"]:
                raise CheckpointCorrupt(f"{name} does not match its sha256")
        state = TrainState.model_validate_json((path / "state.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise CheckpointCorrupt(f"{type(error).__name__}: {error}") from None
    return Checkpoint(state, load_file(path / "method.safetensors"), load_file(path / "optimizer.safetensors"))


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: -int(path.name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
