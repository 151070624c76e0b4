"""LoRA (arXiv 2106.09685), and the shared base of all methods that put adapters beside frozen
linears.

The base stays in bf16; a method with another base or another adapter is a subclass that creates
them. Merging adds each adapter to the weight that was computed with, never to the base model's own
where that was rounded before: it is another model. The sum is rounded to FP8 once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import CheckpointCorrupt, ConfigError
from falqon_core.data.loader import Microbatch
from falqon_core.meld.convert import swap_blocks, target_linears
from falqon_core.methods.adapter import AdaptedLinear, Adapter
from falqon_core.methods.frozen import DenseLinear, FrozenLinear, hash_codes, tensors_of
from falqon_core.methods.frozen_base import FrozenBaseMethod
from falqon_core.methods.merged import MergedLinear

BASE_SHA256 = "base_sha256"
FINGERPRINT_SHA256 = "base_fingerprint_sha256"
HASHES = (BASE_SHA256, FINGERPRINT_SHA256)


class Lora(FrozenBaseMethod):
    """The method, and the base class of those that differ in base, adapter or layer."""

    def __init__(self, recipe: Recipe) -> None:
        """`recipe` is resolved."""
        self.recipe = recipe
        self.layers: dict[str, AdaptedLinear] = {}
        self._base_hashes: dict[str, Tensor] = {}

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> FrozenLinear:
        """Return the frozen linear that holds `weight` [O, I]. `stored` is the result of its
        `search_results` before a checkpoint, empty at a fresh start. Raises `ConfigError` where a
        size does not fit.
        """
        return DenseLinear(weight)

    def create_adapter(self, name: str, weight: Tensor) -> Adapter:
        """Return the adapter of a linear with `weight` [O, I] at its start."""
        return Adapter(name, weight, self.recipe.rank, self.scaling, self.recipe.seed)

    def fingerprint(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return tensors that tell a weight and have the same bits on every device; none where the
        codes of its base have them already.
        """
        return ()

    def create_layer(
        self, base: FrozenLinear, adapter: Adapter, bias: Tensor | None
    ) -> AdaptedLinear:
        """Return the module that takes the place of the `nn.Linear`."""
        return AdaptedLinear(base, adapter, bias)

    @property
    def scaling(self) -> float:
        """Return alpha / rank, the factor of every adapter."""
        assert self.recipe.alpha is not None, "resolve the recipe first"
        return self.recipe.alpha / self.recipe.rank

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Convert the model. Raises `ConfigError` where a target or the rank does not fit."""
        self._convert(model, {})

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Convert the model and fill the adapters. Raises `CheckpointCorrupt` where the base is
        quantized to other codes than at the start.
        """
        self._convert(model, state)
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                # fp32 masters, on the device of the linear.
                parameter.copy_(state[name])
        for name in self.layers:
            if not self._has_base_of(name, state):
                raise CheckpointCorrupt(
                    f"{name}: the base model was quantized to other values when this training "
                    "began; is it the same model, and the same version of this software?"
                )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the adapters' parameters, fp32: A [r, I] and B [O, r] by default."""
        return {
            f"{name}.{key}": parameter
            for name, layer in self.layers.items()
            for key, parameter in layer.adapter.named_parameters()
        }

    def state(self) -> dict[str, Tensor]:
        """Return adapters, search results, and hashes of each base, uint8 [32]."""
        searched = {
            f"{name}.{key}": value
            for name, layer in self.layers.items()
            for key, value in layer.base.search_results().items()
        }
        adapters = {name: value.detach() for name, value in self.parameters().items()}
        return adapters | searched | self._base_hashes

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        """Replace every adapted linear by its sum in FP8, one at a time."""
        for name, layer in self.layers.items():
            # The adapted linear is dropped at once, so one fp32 weight exists at a time.
            merged = MergedLinear(layer.merged_weight(), layer.bias, layer.base.dtype)
            model.set_submodule(name, merged)
        self.layers = {}

    def _convert(self, model: PreTrainedModel, stored: dict[str, Tensor]) -> None:
        """Change the model in place, a linear at a time: each weight is freed before the next."""
        swap_blocks(model)
        model.requires_grad_(False)
        device = model.get_input_embeddings().weight.device
        for name in list(target_linears(model, self.recipe.target_modules)):
            linear = model.get_submodule(name).to(device)
            weight = linear.weight.detach()
            self._check_rank(name, weight)
            base = self.create_base(name, weight, tensors_of(name, stored))
            layer = self.create_layer(base, self.create_adapter(name, weight), linear.bias)
            model.set_submodule(name, layer)
            self.layers[name] = layer
            hashed = {BASE_SHA256: base.codes(), FINGERPRINT_SHA256: self.fingerprint(weight)}
            for key, tensors in hashed.items():
                if tensors:
                    self._base_hashes[f"{name}.{key}"] = hash_codes(tensors)
        model.to(device)  # Linears that have no adapter move here.

    def _has_base_of(self, name: str, state: dict[str, Tensor]) -> bool:
        """Return True if a linear's base is the one of a checkpoint: by its codes, or by its
        fingerprint where another device may round some codes otherwise.
        """
        hashes = self._base_hashes
        keys = [key for hashed in HASHES if (key := f"{name}.{hashed}") in hashes]
        return not keys or any(
            key in state and torch.equal(hashes[key], state[key].cpu()) for key in keys
        )

    def _check_rank(self, name: str, weight: Tensor) -> None:
        if self.recipe.rank > weight.shape[1]:
            raise ConfigError(
                f"rank: {self.recipe.rank} is more than the {weight.shape[1]} inputs of {name}",
                "rank",
            )
