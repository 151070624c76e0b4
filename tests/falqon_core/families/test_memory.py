"""What a layer of each family keeps for backward is no more than the memory plan counts."""

import gc
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from falqon_core.contract.config import Recipe
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import training_memory_bytes
from falqon_core.estimate.mixers import HYBRIDS
from falqon_core.meld.token_mixers import mix_by_segment
from falqon_core.methods import create_method
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.ops import attention
from falqon_core.ops.experts import quantize_experts
from tests.falqon_core.families.models import FAMILIES, random_model

LENGTH, ROWS = 64, 4
RECIPE = Recipe(
    rank=8,
    max_seq_length=LENGTH,
    microbatch_tokens=LENGTH * ROWS,
    a_init="orthonormal",
    activation_checkpointing=False,
).resolved(ROWS)


class Storages(TorchDispatchMode):
    """Remembers every storage that an operation wrote to, and keeps none alive."""

    def __init__(self) -> None:
        super().__init__()
        self.refs: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.refs[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return output


def kept_bytes(config: PreTrainedConfig) -> int:
    """Return what is alive between forward and backward of one microbatch."""
    model = random_model(config)
    model.set_attn_implementation(attention.ATTENTION_NAME)
    quantize_experts(model)
    mix_by_segment(model)
    create_method(RECIPE).prepare(model, [])
    weights = [*model.parameters(), *model.buffers()]
    own = {tensor.untyped_storage()._cdata for tensor in weights}
    ids = np.arange(3, 3 + LENGTH, dtype=np.int32)
    microbatch = collate([TokenSequence(ids + row, ids > 0) for row in range(ROWS)], True)
    gc.freeze()  # what follows alone may be garbage
    with Storages() as storages:
        loss, _ = microbatch_loss(model, microbatch)
    gc.collect()
    assert loss.requires_grad
    alive = storages.refs.items()
    return sum(size for key, (ref, size) in alive if not ref.expired() and key not in own)


def with_layers(config: PreTrainedConfig, number: int, kind: str) -> PreTrainedConfig:
    changed: dict[str, Any] = {"num_hidden_layers": number, "sliding_window": None}
    if getattr(config, "layer_types", None):
        changed["layer_types"] = [kind] * number
    if getattr(config, "no_rope_layers", None):
        changed["no_rope_layers"] = [1] * number
    described = config.to_dict()
    if (own := described.pop("per_layer_config", None)) is not None:
        sizes = own[str(config.num_hidden_layers - 1)]
        changed |= {"sliding_window": LENGTH, "num_kv_shared_layers": 0}
        changed |= {"per_layer_config": dict.fromkeys(range(number), sizes)}
    return type(config)(**described | changed)


def dimensions_of(config: PreTrainedConfig) -> ModelDimensions:
    return ModelDimensions.from_config(json.loads(config.to_json_string()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "full_attention") for name in FAMILIES]
    + [
        (name, HYBRIDS[config.model_type])
        for name, config in FAMILIES.items()
        if config.model_type in HYBRIDS
    ],
)
def test_a_layer_keeps_what_is_planned(name: str, kind: str) -> None:
    fewer, more = (with_layers(FAMILIES[name], number, kind) for number in (1, 2))
    without_weights = RECIPE.model_copy(update={"microbatch_tokens": 0})
    planned = [
        training_memory_bytes(sizes, RECIPE, True)
        - training_memory_bytes(sizes, without_weights, True)
        for sizes in (dimensions_of(fewer), dimensions_of(more))
    ]

    kept = kept_bytes(more) - kept_bytes(fewer)

    # Gemma 2 and gpt-oss keep no probabilities, which the plan counts
    assert 0.45 < kept / (planned[1] - planned[0]) < 1.02
