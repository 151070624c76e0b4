"""The published systems as their own libraries compute them: what ours is measured against.

PEFT builds the adapters: each linear gets a branch y += alpha / r * B (A x) in fp32, PEFT's own
default. The libraries are imported only where they are measured.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.meld.convert import swap_blocks, target_linears
from falqon_core.meld.init import orthonormal
from falqon_core.methods.frozen_base import FrozenBaseMethod


class PeftLora(FrozenBaseMethod):
    """LoRA as PEFT computes it."""

    def __init__(self, recipe: Recipe, train_a: bool = True) -> None:
        """`recipe` is resolved; `update_rule` and `a_init` play no part."""
        self.recipe = recipe
        self.train_a = train_a
        self._adapters: dict[str, nn.Parameter] = {}

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Let PEFT add its branches, and train them alone."""
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
        """Replace the linears `names`, in place, before they get their branches; here none is."""

    def fuse(self, model: PreTrainedModel) -> None:
        """Make what stands around the linears fast; here as for the melded method."""
        swap_blocks(model)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return A and B of every branch, fp32, or B alone with frozen A."""
        return {
            name: value
            for name, value in self._adapters.items()
            if self.train_a or name.endswith("lora_B")
        }

    def state(self) -> dict[str, Tensor]:
        """Return A and B of every branch."""
        return {name: parameter.detach() for name, parameter in self._adapters.items()}


class PeftQLora(PeftLora):
    """QLoRA (arXiv 2305.14314): LoRA over a base in 4 bits, NF4 with nested scales, as bitsandbytes
    computes it. What is given up: the paper's paged optimizer.
    """

    def change_base(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        """Change one linear at a time: each bf16 weight is freed before the next is quantized."""
        from bitsandbytes.nn import Linear4bit, Params4bit

        for name in names:
            linear = model.get_submodule(name)
            weight = linear.weight.detach()
            quantized = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                device="meta",
            )
            quantized.weight = Params4bit(
                weight, requires_grad=False, quant_type="nf4", module=quantized
            ).to(weight.device)
            quantized.bias = linear.bias
            model.set_submodule(name, quantized)
        model.is_loaded_in_4bit = True  # PEFT chooses its 4-bit branch by it


class TorchAO(PeftLora):
    """LoRA over linears that torchao computes in FP8 (dynamic scaling per tensor).

    The base stays in bf16 and is cast at every product, as are activations and gradients; Inductor
    fuses the casts into their neighbours, without which torchao is slower than bf16. That is why
    decoder layers are compiled and keep transformers' own norms and MLP, and only they: one
    compilation serves all of them.
    """

    def change_base(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        """Convert the linears `names` to torchao's FP8, in place."""
        from torchao.float8 import convert_to_float8_training

        chosen = set(names)

        def is_chosen(_: nn.Module, name: str) -> bool:
            return name in chosen

        convert_to_float8_training(model, module_filter_fn=is_chosen)

    def fuse(self, model: PreTrainedModel) -> None:
        """Compile every decoder layer."""
        for layer in model.base_model.layers:
            layer.forward = torch.compile(layer.forward)
