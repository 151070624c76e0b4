"""LoRA over linears that torchao computes in FP8 (dynamic scaling per tensor), each decoder layer
compiled.

The base stays in bf16 and is cast at every product, as are activations and gradients; Inductor
fuses the casts into their neighbours, without which torchao is slower than bf16. That is why
decoder layers are compiled and keep transformers' own norms and MLP, and only they: one compilation
serves all of them. The output head and the adapters' branches stay in bf16 and fp32. What is given
up: FP8 scales by row, which sm_89 does not take everywhere; torchao is imported only when this
method is asked for.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from falqon_core.methods.lora import Lora


class TorchAO(Lora):
    def change_base(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        from torchao.float8 import convert_to_float8_training

        chosen = set(names)

        def is_chosen(_: nn.Module, name: str) -> bool:
            return name in chosen

        convert_to_float8_training(model, module_filter_fn=is_chosen)

    def fuse(self, model: PreTrainedModel) -> None:
        for layer in model.base_model.layers:
            layer.forward = torch.compile(layer.forward)
