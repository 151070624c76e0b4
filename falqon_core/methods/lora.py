"""LoRA as PEFT builds it, behind the protocol of `methods`: what the melded method is measured
against.

The base stays in bf16 and unquantized, each linear gets a branch y += alpha / r * B (A x) with fp32
adapters (PEFT's own default). `train_a=False` freezes A on the random orthonormal rows that
`a_init="orthonormal"` would take: the melded method without its FP8. Other bases under the same
adapters are subclasses that change the linears first (qlora.py, torchao.py). PEFT
is not needed to train a job, so it is imported only when this method is asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.meld.convert import swap_blocks, target_linears
from falqon_core.meld.init import orthonormal


class Lora:
    def __init__(self, recipe: Recipe, train_a: bool = True) -> None:
        """`recipe` is resolved; `update_rule` and `a_init` play no part."""
        self.recipe = recipe
        self.train_a = train_a
        self._adapters: dict[str, nn.Parameter] = {}

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        linears = list(target_linears(model, self.recipe.target_modules))
        self.change_base(model, linears)
        config = LoraConfig(
            r=self.recipe.rank,
            lora_alpha=self.recipe.alpha or self.recipe.rank,
            target_modules=linears,
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)  # PEFT draws A from the global generator
            inject_adapter_in_model(config, model)
        self.fuse(model)
        model.requires_grad_(False)
        for name in linears:
            layer = model.get_submodule(name)
            a = layer.lora_A["default"].float().weight
            b = layer.lora_B["default"].float().weight
            if not self.train_a:
                a.data.copy_(orthonormal(name, a.shape[1], self.recipe.rank, self.recipe.seed))
            self._adapters |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)

    def change_base(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        """Replace the linears `names`, in place, before they get their branches; here they stay as
        they are.
        """

    def fuse(self, model: PreTrainedModel) -> None:
        """Make what stands around the linears fast; here as for the melded method."""
        swap_blocks(model)

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        self.prepare(model, [])
        with torch.no_grad():
            for name, parameter in self._adapters.items():
                parameter.copy_(state[name])

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            name: value
            for name, value in self._adapters.items()
            if self.train_a or name.endswith("lora_B")
        }

    def after_step(self) -> float:
        """Do nothing: the branch reads its parameters as they are, and nothing is quantized."""
        return 0.0

    def state(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._adapters.items()}
