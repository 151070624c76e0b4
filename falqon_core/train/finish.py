"""The artifact of a training: the merged FP8 folder with tokenizer, model card, certificate and checksums, whole or absent."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from falqon_core.contract.certificate import CERTIFICATE, Certificate
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import ModelError
from falqon_core.contract.layout import checkpoint_folder
from falqon_core.export.certify import files_of
from falqon_core.export.checksums import write_sha256sums
from falqon_core.export.fp8 import export_fp8
from falqon_core.export.model_card import TrainingRow, write_model_card
from falqon_core.export.provenance import card_fields, copy_licence
from falqon_core.fault_points import fault
from falqon_core.files import whole_folder, write_whole
from falqon_core.methods.falqon import Falqon
from falqon_core.train.checkpoint import Checkpoint, Progress, load_checkpoint, newest_checkpoint
from falqon_core.train.data import load_data
from falqon_core.train.model import load_base_model, load_tokenizer, select_device
from falqon_core.train.reference_outputs import capture_reference
from falqon_core.train.verifier import VerifierProcess


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


class DataFiles(NamedTuple):
    """What a training read."""

    train: Path
    validation: Path | None


def export_training(
    training: Path, base_folder: Path, output: Path, step: int | None = None, base_name: str = "", data: DataFiles | None = None
) -> None:
    """Export what the folder of a training holds: the checkpoint of `step`, or its newest whole one, or its best when it stops early.

    With `data` it is certified as the trainer certifies what it exports; without, there are no held-out rows to compare on.
    Raises `ModelError` when there is no checkpoint, `CheckpointCorrupt` when the chosen one is damaged, what `load_data` raises, and
    `CertificateMismatch`.
    """
    warn = logging.getLogger(__name__).warning
    if step is not None:
        newest = chosen = load_checkpoint(checkpoint_folder(training, step))
    else:
        found = newest_checkpoint(training, warn)
        if found is None:
            raise ModelError(f"{training.name} holds no checkpoint", "training")
        newest, chosen = found, best_checkpoint(training, found.progress) or found
    device, progress = select_device("auto"), newest.progress  # a GPU rounds the fold as the training on it did
    model, tokenizer, certificate = restored_model(base_folder, chosen, device), load_tokenizer(base_folder), None
    with new_model(output) as staging:
        export_fp8(model, tokenizer, staging)
        if data is not None:
            config = TrainConfig(
                model=base_folder,
                train_file=data.train,
                validation_file=data.validation,
                recipe=progress.recipe,
                base_model_name=base_name,
                num_threads=progress.num_threads,
            )
            with closing(VerifierProcess(config)) as verifier:
                train, validation = load_data(config, tokenizer, warn)
                reference_outputs = capture_reference(model, tokenizer, validation, train)
                del model  # another is about to be loaded
                certificate = verifier.certify(staging, reference_outputs, progress, device)
        document(staging, progress, base_folder, base_name, device.type, certificate)


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
