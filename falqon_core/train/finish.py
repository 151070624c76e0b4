"""The artifact of a training: the merged FP8 folder with tokenizer, model card and checksums, whole or absent."""

import logging
import shutil
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.export.checksums import write_sha256sums
from falqon_core.export.fp8 import export_fp8
from falqon_core.export.model_card import TrainingRow, license_of, write_model_card
from falqon_core.files import whole_folder
from falqon_core.methods.falqon import Falqon
from falqon_core.spec.errors import ModelError
from falqon_core.train.checkpoint import Progress, newest_checkpoint
from falqon_core.train.model import load_base_model, load_tokenizer


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, progress: Progress, base_folder: Path, base_name: str, output: Path
) -> None:
    """Write `output`, replacing what is there. `base_name` is shown in the card; empty: the base folder's name."""
    for leftover in output.parent.glob(f".{output.name}.*"):  # of a process that was killed here
        shutil.rmtree(leftover)
    with whole_folder(output) as staging:
        export_fp8(model, tokenizer, staging)
        write_model_card(
            staging,
            base_model=base_name or base_folder.name,
            license=license_of(base_folder),
            recipe=progress.recipe,
            rows=[TrainingRow(**row.model_dump()) for row in progress.rows],
            num_records=progress.num_records,
            num_tokens=progress.trained_tokens,
            device=model.device.type,
        )
        write_sha256sums(staging)


def export_training(training: Path, base_folder: Path, output: Path) -> None:
    """Export the newest whole checkpoint of the folder a training wrote to. Raises `ModelError` when there is none."""
    checkpoint = newest_checkpoint(training, logging.getLogger(__name__).warning)
    if checkpoint is None:
        raise ModelError(f"{training.name} holds no checkpoint", "training")
    model = load_base_model(base_folder)
    method = Falqon(checkpoint.progress.recipe)
    method.restore(model, checkpoint.method)
    export_model(model, load_tokenizer(base_folder), checkpoint.progress, base_folder, "", output)
