"""A checkpoint of QA-LoRA as one GGUF file: its linears are Q4_1 blocks of the codes, steps and
minima that were trained with, the rest is as in the other GGUF.

Every weight is bit for bit the one that the trainer computed with. An engine may still answer a
little differently: llama.cpp rounds activations to 8 bits where weights have 4.
"""

from pathlib import Path

import torch
from torch import nn

from falqon_core.contract.formats import check_format
from falqon_core.contract.model_folder import read_config
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.export.formats import document_format
from falqon_core.export.gguf import write_gguf_file
from falqon_core.export.provenance import card_fields
from falqon_core.export.trained import plain, plain_tensors
from falqon_core.files import staged_folder
from falqon_core.methods.qa_lora import QaLora
from falqon_core.ops.formats.int4 import q4_1_blocks
from falqon_core.train.base_identity import check_base
from falqon_core.train.checkpoint import TrainingState
from falqon_core.train.model import load_base_model, load_tokenizer


def export_q4_1(
    checkpoint: TrainingState, base_folder: Path, output: Path, name: str, base_name: str
) -> None:
    """Write the folder `output`, whole or not at all. `name` is shown, and `base_name` where the
    base folder does not say what it is called on the Hub. Raises `FormatUnavailable`, `ModelError`
    where the checkpoint is of another base, `CheckpointCorrupt` where it is quantized to other
    values than then, and what `load_base_model` raises.
    """
    check_base(checkpoint.progress, base_folder)
    recipe = checkpoint.progress.recipe
    config = read_config(base_folder)
    check_format("q4_1", recipe, config)
    tokenizer = load_tokenizer(base_folder)
    set_template_defaults(tokenizer, recipe.chat_template_kwargs)
    tensors = _tensors(QaLora(recipe), checkpoint, base_folder)
    with staged_folder(output) as staging:
        write_gguf_file(staging / "model.gguf", name, config, tokenizer, tensors, "q4_1")
        fields = card_fields(base_folder, base_name)
        document_format("q4_1", base_folder, staging, name, fields)


def _tensors(
    method: QaLora, checkpoint: TrainingState, base_folder: Path
) -> dict[str, torch.Tensor]:
    """Return the tensors that `write_gguf_file` takes."""
    model = load_base_model(base_folder)
    method.restore(model, checkpoint.method)
    tensors = {}
    for name, layer in method.layers.items():
        tensors[f"{name}.weight"] = q4_1_blocks(layer.base.weight)
        if layer.bias is not None:
            tensors[f"{name}.bias"] = plain(layer.bias)
        model.set_submodule(name, nn.Identity())
    return tensors | plain_tensors(model)
