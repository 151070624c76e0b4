"""Checkpoints: folders that are complete and verified, or do not count.

`OUTPUT/checkpoints/50/` (contract.layout) holds method.safetensors, optimizer.safetensors,
progress.json and manifest.json; the manifest lists size and sha256 of the other three. A checkpoint
is written beside its place, flushed to disk and renamed, so a crash leaves none or all of it.
Reading verifies every hash; a folder that fails is reported, removed, and the one before it is
used. The newest few are kept, and the one with the lowest validation loss. Each holds the full
trainable state.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from falqon_core.contract.config import Recipe, read_old_recipe
from falqon_core.contract.errors import CheckpointCorrupt, CheckpointOfOtherVersion
from falqon_core.contract.layout import MANIFEST, checkpoint_folder, checkpoint_folders
from falqon_core.contract.weights import check_safetensors
from falqon_core.data.summary import DataSummary
from falqon_core.fault_points import fault
from falqon_core.files import staged_folder

# Errors of the system that only a damaged folder causes.
_DAMAGES = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class CurvePoint(BaseModel):
    """One line of the training table, one point of the curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    train_loss: float
    valid_loss: float | None
    learning_rate: float


class Progress(BaseModel):
    """The point that a training has reached, beside the tensors."""

    model_config = ConfigDict(extra="forbid")

    recipe: Recipe
    num_records: int
    num_tokens: int
    num_threads: int
    num_processes: int = 1
    # Trainings that began before these were kept have none.
    device_name: str | None = None
    data: DataSummary | None = None
    data_sha256: str | None = None  # Also None where the date is part of the data.
    base_fingerprint: str | None = None
    step: int = 0
    trained_tokens: int = 0
    loader: dict[str, int] = {}
    metrics: dict[str, float] = {}
    rows: list[CurvePoint] = []
    untouched_valid_loss: float | None = None  # before the first step
    best_step: int | None = None
    best_valid_loss: float | None = None
    num_stale_evaluations: int = 0

    @field_validator("recipe", mode="before")
    @classmethod
    def _read_old_recipe(cls, value: Any) -> Any:
        return read_old_recipe(value)


class TrainingState(NamedTuple):
    """The full trainable state: progress, and the tensors of method and optimizer by name."""

    progress: Progress
    method: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk."""

    path: Path
    num_bytes: int
    manifest_sha256: str


def save_checkpoint(output: Path, checkpoint: TrainingState, keep: int) -> Saved:
    """Write the checkpoint of this step and remove all but the `keep` newest and the one with the
    lowest validation loss.
    """
    path = checkpoint_folder(output, checkpoint.progress.step)
    with staged_folder(path) as staging:
        save_file(_contiguous(checkpoint.method), staging / "method.safetensors")
        fault("checkpoint_write")
        save_file(_contiguous(checkpoint.optimizer), staging / "optimizer.safetensors")
        (staging / "progress.json").write_text(
            checkpoint.progress.model_dump_json() + "\n", encoding="utf-8"
        )
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(staging.iterdir())
        }
        (staging / MANIFEST).write_text(
            json.dumps({"step": checkpoint.progress.step, "files": files}, indent=2) + "\n",
            encoding="utf-8",
        )
    fault("checkpoint_written")
    for old in checkpoint_folders(output)[keep:]:
        if int(old.name) != checkpoint.progress.best_step:
            shutil.rmtree(old)
    return Saved(
        path, sum(file.stat().st_size for file in path.iterdir()), _sha256(path / MANIFEST)
    )


def newest_checkpoint(output: Path, warn: Callable[[str], None]) -> TrainingState | None:
    """Load the newest checkpoint that is whole, for the training that continues from it; corrupt
    ones are reported through `warn` and removed, leftovers of a crash are swept.
    """
    for leftover in (output / "checkpoints").glob(".*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
    for path in checkpoint_folders(output):
        try:
            return load_checkpoint(path)
        except CheckpointCorrupt as error:
            warn(f"{error}; it is removed and the one before it is used")
            shutil.rmtree(path)
    return None


def find_checkpoint(output: Path, warn: Callable[[str], None]) -> TrainingState | None:
    """Load the newest checkpoint that is whole, for a reader: nothing is removed, since the
    training may be running.
    """
    for path in checkpoint_folders(output):
        try:
            return load_checkpoint(path)
        except CheckpointCorrupt as error:
            warn(f"{error}; the one before it is used")
    return None


def load_checkpoint(path: Path) -> TrainingState:
    """Load a checkpoint. Raises `CheckpointCorrupt` where anything is missing or changed,
    `CheckpointOfOtherVersion` where its fields are other ones, and `OSError` where the machine
    cannot read it now, which says nothing about the checkpoint.
    """
    try:
        files = json.loads((path / MANIFEST).read_bytes())["files"]
        for name in ("method.safetensors", "optimizer.safetensors", "progress.json"):
            if _sha256(path / name) != files[name]["sha256"]:
                raise CheckpointCorrupt(f"checkpoint {path.name} is corrupt: {name} has changed")
            if name.endswith(".safetensors"):
                check_safetensors(path / name)
        return TrainingState(
            _read_progress(path),
            load_file(path / "method.safetensors"),
            load_file(path / "optimizer.safetensors"),
        )
    except (*_DAMAGES, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointCorrupt(f"checkpoint {path.name} is corrupt: {error}") from error


def _read_progress(path: Path) -> Progress:
    """Read a file whose hash was right."""
    try:
        return Progress.model_validate_json((path / "progress.json").read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise CheckpointOfOtherVersion(
            f"checkpoint {path.name} was written by another version of this program ({name}: "
            f"{first['msg']}); continue with that version, or start again in another folder"
        ) from error


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
