"""The artifact of a training: the merged FP8 folder with tokenizer, model card, certificate and checksums, whole or absent."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedModel

from falqon_core.export.certify import files_of
from falqon_core.export.checksums import write_sha256sums
from falqon_core.export.fp8 import export_fp8
from falqon_core.export.model_card import TrainingRow, write_model_card
from falqon_core.export.provenance import card_fields, copy_licence
from falqon_core.files import whole_folder, write_whole
from falqon_core.methods.falqon import Falqon
from falqon_core.spec.certificate import CERTIFICATE, Certificate
from falqon_core.spec.errors import ModelError
from falqon_core.spec.faults import fault
from falqon_core.spec.layout import checkpoint_folder
from falqon_core.train.checkpoint import Checkpoint, Progress, load_checkpoint, newest_checkpoint
from falqon_core.train.model import load_base_model, load_tokenizer, select_device


@contextmanager
def new_model(output: Path) -> Iterator[Path]:
    """A folder to write, `document` and leave, which then takes the place of `output`."""
    for leftover in output.parent.glob(f".{output.name}.*"):  # of a process that was killed here
        shutil.rmtree(leftover)
    with whole_folder(output) as staging:
        yield staging


def document(
    staging: Path, progress: Progress, base_folder: Path, base_name: str, device: str, certificate: Certificate | None = None
) -> None:
    """All that stands around the exported files. `base_name`: for the card, if the base folder knows no other; empty: its name."""
    base_name = base_name or base_folder.name
    fields = card_fields(base_folder, base_name)
    copy_licence(base_folder, staging)
    write_model_card(
        staging,
        base_model=str(fields.get("base_model", base_name)),
        fields=fields,
        recipe=progress.recipe,
        rows=[TrainingRow(**row.model_dump()) for row in progress.rows],
        num_records=progress.num_records,
        tokens_per_epoch=progress.num_tokens,
        trained_tokens=progress.trained_tokens,
        data=progress.data,
        device=device,
        certificate=certificate,
    )
    fault("export_write")
    if certificate is not None:
        whole = certificate.model_copy(update={"files": files_of(staging)})
        write_whole(staging / CERTIFICATE, whole.model_dump_json(indent=2) + "\n")
    write_sha256sums(staging)


def export_training(training: Path, base_folder: Path, output: Path, step: int | None = None, base_name: str = "") -> None:
    """Export what the folder of a training holds: the checkpoint of `step`, or its newest whole one, or its best when it stops early.

    Raises `ModelError` when there is none and `CheckpointCorrupt` when the chosen one is damaged.
    """
    if step is not None:
        newest = chosen = load_checkpoint(checkpoint_folder(training, step))
    else:
        found = newest_checkpoint(training, logging.getLogger(__name__).warning)
        if found is None:
            raise ModelError(f"{training.name} holds no checkpoint", "training")
        newest, chosen = found, best_checkpoint(training, found.progress) or found
    model = restored_model(base_folder, chosen, select_device("auto"))  # a GPU rounds the fold as the training on it did
    with new_model(output) as staging:
        export_fp8(model, load_tokenizer(base_folder), staging)
        document(staging, newest.progress, base_folder, base_name, model.device.type)


def best_checkpoint(training: Path, progress: Progress) -> Checkpoint | None:
    """The checkpoint that early stopping hands out; None when `progress` is at it, or there is no early stopping.

    Raises `CheckpointCorrupt`.
    """
    if progress.recipe.early_stopping_patience is None or progress.best_step in (None, progress.step):
        return None
    return load_checkpoint(checkpoint_folder(training, progress.best_step))


def restored_model(base_folder: Path, checkpoint: Checkpoint, device: torch.device) -> PreTrainedModel:
    model = load_base_model(base_folder, device)
    Falqon(checkpoint.progress.recipe).restore(model, checkpoint.method)
    return model
