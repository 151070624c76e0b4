"""A model in a smaller form, as llama.cpp runs it, with what its rounding costs on held-out rows.

The loss of the form is that of its file, read back: nothing stands between what is measured and
what is downloaded.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from falqon_core.contract.certificate import HeldOut
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.formats import QuantizedGguf
from falqon_core.contract.model_folder import read_config
from falqon_core.contract.rounding import ROUNDING, Rounding
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence, sequences_of
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.export.formats import copy_certificate, document_format
from falqon_core.export.gguf import write_gguf
from falqon_core.export.provenance import card_fields
from falqon_core.files import staged_folder, write_whole
from falqon_core.importers.gguf import MODEL_CLASSES, convert_gguf
from falqon_core.objectives.loss import sequence_log_probabilities
from falqon_core.train.data import load_data
from falqon_core.train.model import load_base_model, load_tokenizer

NUM_ROWS = 32
MAX_ROW_TOKENS = 512


def export_rounded(
    format: QuantizedGguf,
    source: Path,
    output: Path,
    name: str,
    base_name: str,
    training: TrainConfig | None,
) -> None:
    """Write an exported FP8 model as the folder `output`, whole or not at all; `training` has the
    rows to measure on. `name` is shown, and `base_name` where `source` does not say what the base
    is called on the Hub. Raises `FormatUnavailable` and what reading `source` and the rows raises.
    """
    with staged_folder(output) as staging:
        write_gguf(source, staging, name, format)
        copy_certificate(source, staging)
        use = ""
        if training is not None and read_config(source)["model_type"] in MODEL_CLASSES:
            rounding = measure(source, staging / "model.gguf", training)
            write_whole(staging / ROUNDING, rounding.model_dump_json(indent=2) + "\n")
            use = _describe(rounding) + "\n\n"
        document_format(format, source, staging, name, card_fields(source, base_name), use)


def _describe(rounding: Rounding) -> str:
    rows = rounding.held_out
    kind = "held-out rows" if rows.source == "validation" else "training rows"
    return (
        f"On {rows.num_rows} {kind} its loss is {rounding.loss:.4f}; that of the FP8 model is "
        f"{rounding.loss_fp8:.4f} (nats a token, activations in bf16)."
    )


@torch.no_grad()
def measure(source: Path, gguf: Path, training: TrainConfig) -> Rounding:
    """Return the losses of an FP8 folder and of a GGUF file of it on the training's held-out rows,
    or on its training rows where it has none.
    """
    recipe = training.recipe.model_copy(
        update={"max_seq_length": min(training.recipe.max_seq_length, MAX_ROW_TOKENS)}
    )
    tokenizer = load_tokenizer(source)
    set_template_defaults(tokenizer, recipe.chat_template_kwargs)
    config = training.model_copy(update={"recipe": recipe})
    data = load_data(config, tokenizer, logging.getLogger(__name__).warning)
    rows = (data.validation or data.train).sequences[:NUM_ROWS]
    sequences = [sequences_of(row)[0] for row in rows]
    loss_fp8 = _loss(load_base_model(source), sequences)
    with tempfile.TemporaryDirectory(dir=gguf.parent) as folder:
        convert_gguf(gguf, Path(folder))
        loss = _loss(load_base_model(Path(folder)), sequences)
    held_out = HeldOut(
        source="training" if data.validation is None else "validation",
        num_rows=len(sequences),
        num_tokens=sum(map(len, sequences)),
    )
    return Rounding(loss=loss, loss_fp8=loss_fp8, held_out=held_out)


def _loss(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> float:
    microbatches = [collate([sequence], packing=False) for sequence in sequences]
    sums = [sequence_log_probabilities(model, each).item() for each in microbatches]
    return -math.fsum(sums) / sum(sequence.num_labels for sequence in sequences)
