"""Forms of a model that answer otherwise than the FP8 model, with how far they are from it on
held-out rows: rounded to smaller blocks, or an adapter on the base as it came.

A rounded form is measured by its file, read back: nothing stands between what is measured and what
is downloaded.
"""

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.certificate import HeldOut
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.formats import QuantizedGguf
from falqon_core.contract.model_folder import read_config
from falqon_core.contract.quantization_config import weights_of
from falqon_core.contract.rounding import ROUNDING, Rounding
from falqon_core.data.dataset import Dataset
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence, sequences_of
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.export.adapter import read_factors, scaling_of, write_gguf_adapter
from falqon_core.export.formats import copy_certificate, document_format
from falqon_core.export.gguf import write_gguf
from falqon_core.export.provenance import card_fields
from falqon_core.files import staged_folder, write_whole
from falqon_core.importers.gguf import MODEL_CLASSES, convert_gguf
from falqon_core.objectives.loss import states_and_labels
from falqon_core.ops.cross_entropy import token_cross_entropy
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
        config = read_config(source)
        is_rounded = weights_of(config) in (None, "fp8")
        if training is not None and is_rounded and config["model_type"] in MODEL_CLASSES:
            rounding = measure(source, staging / "model.gguf", training)
            write_whole(staging / ROUNDING, rounding.model_dump_json(indent=2) + "\n")
            use = _describe(rounding) + "\n\n"
        document_format(format, source, staging, name, card_fields(source, base_name), use)


def _describe(rounding: Rounding) -> str:
    rows = rounding.held_out
    kind = "held-out rows" if rows.source == "validation" else "training rows"
    return (
        f"On {rows.num_rows} {kind} its loss is {rounding.loss:.4f}; that of the FP8 model is "
        f"{rounding.loss_fp8:.4f} (nats a token, activations in bf16). Both find the same token "
        f"most probable at {rounding.same_tokens:.1%} of the learned tokens."
    )


def export_adapter(
    source: Path, output: Path, name: str, base_name: str, training: TrainConfig, merged: Path
) -> None:
    """Write a checkpoint as the folder `output` with an adapter for llama.cpp, measured on the base
    model that `training` names, against the FP8 folder `merged`. Raises as `write_format`.
    """
    with staged_folder(output) as staging:
        recipe = write_gguf_adapter(source, staging, name)
        model = load_base_model(training.model)
        add_adapter(model, read_factors(source), scaling_of(recipe))
        rounding = compare(model, merged, training)
        write_whole(staging / ROUNDING, rounding.model_dump_json(indent=2) + "\n")
        fields = card_fields(source, base_name)
        document_format("gguf_lora", source, staging, name, fields, _describe(rounding) + "\n\n")


def add_adapter(
    model: PreTrainedModel, factors: Mapping[str, tuple[Tensor, Tensor]], scaling: float
) -> None:
    """Have each linear that is named add `scaling` times B A x, in fp32, as llama.cpp does."""
    for name, (a, b) in factors.items():

        def add(_: Any, inputs: Any, y: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
            return (y + scaling * (inputs[0].float() @ a.t()) @ b.t()).to(y.dtype)

        model.get_submodule(name).register_forward_hook(add)


def measure(source: Path, gguf: Path, training: TrainConfig) -> Rounding:
    """Return how far a GGUF file of an FP8 folder is from it."""
    with tempfile.TemporaryDirectory(dir=gguf.parent) as folder:
        convert_gguf(gguf, Path(folder))
        return compare(load_base_model(Path(folder)), source, training)


@torch.no_grad()
def compare(model: PreTrainedModel, merged: Path, training: TrainConfig) -> Rounding:
    """Compare a model with the FP8 folder on the training's held-out rows, or on its training rows
    where it has none.
    """
    tokenizer = load_tokenizer(merged)
    set_template_defaults(tokenizer, training.recipe.chat_template_kwargs)
    data = load_data(training, tokenizer, logging.getLogger(__name__).warning)
    sequences = _choose_rows(data.validation or data.train)
    loss, tokens = _outputs(model, sequences)
    del model
    loss_fp8, tokens_fp8 = _outputs(load_base_model(merged), sequences)
    return Rounding(
        loss=loss,
        loss_fp8=loss_fp8,
        same_tokens=(tokens == tokens_fp8).float().mean().item(),
        held_out=HeldOut(
            source="training" if data.validation is None else "validation",
            num_rows=len(sequences),
            num_tokens=sum(map(len, sequences)),
        ),
    )


def _choose_rows(data: Dataset) -> list[TokenSequence]:
    """Return the first `NUM_ROWS` rows that learn something within `MAX_ROW_TOKENS` tokens, cut to
    these.

    Where no row does, the shortest are returned, each up to `MAX_ROW_TOKENS` tokens after its first
    target: as many as have the tokens of `NUM_ROWS` cut ones together, but at least one.
    """
    whole = [sequences_of(row)[0] for row in data.sequences]
    cut = (_cut(row, MAX_ROW_TOKENS) for row in whole)
    if rows := list(islice((row for row in cut if row.has_targets), NUM_ROWS)):
        return rows
    shortest = sorted(
        (_cut(row, int(row.loss_mask.argmax()) + MAX_ROW_TOKENS) for row in whole), key=len
    )[:NUM_ROWS]
    num_fitting = int((np.cumsum([*map(len, shortest)]) <= NUM_ROWS * MAX_ROW_TOKENS).sum())
    return shortest[: max(1, num_fitting)]


def _cut(row: TokenSequence, length: int) -> TokenSequence:
    return TokenSequence(row.input_ids[:length], row.loss_mask[:length])


def _outputs(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> tuple[float, Tensor]:
    """Return the loss a token, and the most probable token in place of each learned one."""
    losses, tokens = [], []
    for sequence in sequences:
        hidden, head, labels = states_and_labels(model, collate([sequence], packing=False))
        losses.append(token_cross_entropy(hidden, head, labels)[0].double().sum().item())
        tokens.append(head.logits(hidden).argmax(-1))
    found = torch.cat(tokens)
    return math.fsum(losses) / len(found), found
