"""Routed experts with frozen weights, registered with transformers under the name `falqon`.

The weights of all experts of a layer are e4m3 codes with a scale for each row: gate_up_proj [E, 2I,
H], down_proj [E, H, I], and `<name>_scale` fp32 [E, O, 1]; both transposed where the module has its
weights so (gpt-oss). Those of a model whose config says so (`expert_format`) came in MXFP4 and are
kept in it (importers/mxfp4.py): [E, O, I / 2] and [E, O, I / 32], both uint8. Only the layer's
input is kept for backward, and what the experts computed of it is computed again. The sum over a
token's experts is fp32 and in a fixed order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import EXPERT_FORMAT
from falqon_core.importers import mxfp4
from falqon_core.ops.grouped_product import grouped_product
from falqon_core.ops.quantize import quantize_codes

EXPERTS_NAME = "falqon"
WEIGHTS = ("gate_up_proj", "down_proj")
SCALE_SUFFIX = "_scale"
LOAD = "load_of_experts"  # int32 [E] beside a module's parameters, of no state dict
Quantize = Callable[[Tensor], tuple[Tensor, Tensor]]


def falqon_experts(
    module: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Return the weighted sum of each token's experts, [T, H] of [T, H]; the numbers and weights
    of the chosen ones are [T, k].
    """
    inputs = (module, hidden_states, top_k_index, top_k_weights)
    if not torch.is_grad_enabled():
        return _weighted_sum(*inputs)
    output: Tensor = checkpoint(
        _weighted_sum, *inputs, use_reentrant=False, preserve_rng_state=False
    )
    return output


def _weighted_sum(module: Any, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    num_tokens, num_active = index.shape
    # Pairs of token and expert, [T k], those of the same expert together.
    experts, order = index.flatten().sort(stable=True)
    numbers = torch.arange(module.num_experts, device=index.device)
    ends = torch.searchsorted(experts, numbers, right=True, out_int32=True)
    if torch.is_grad_enabled():
        counts = ends.diff(prepend=ends.new_zeros(1))
        module.__dict__[LOAD] = module.__dict__.get(LOAD, 0) + counts
    # Copies of a token are made before they are sorted: then no gradient is scattered.
    rows = x.repeat_interleave(num_active, 0)[order]
    gate_up = _linear(module, "gate_up_proj", rows, experts, ends)
    outputs = _linear(module, "down_proj", module._apply_gate(gate_up), experts, ends)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    outputs = outputs[place].view(num_tokens, num_active, -1).float()
    return (outputs * weights[:, :, None]).sum(1).to(x.dtype)


def _linear(module: Any, name: str, x: Tensor, experts: Tensor, ends: Tensor) -> Tensor:
    """Return the outputs [N, O] of rows [N, I], sorted by their `experts` [N]."""
    codes, scale = (_by_row(module, getattr(module, key)) for key in (name, name + SCALE_SUFFIX))
    y: Tensor = _FrozenProduct.apply(x, codes, scale, ends)
    return y + getattr(module, f"{name}_bias")[experts] if module.has_bias else y


class _FrozenProduct(torch.autograd.Function):
    """`grouped_product`, differentiable in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, ends: Tensor) -> Tensor:
        ctx.weights = codes, scale, ends
        return grouped_product(x, codes, scale, ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scale, ends = ctx.weights
        return grouped_product(grad, codes, scale, ends, True), None, None, None


class ExpertLoad(NamedTuple):
    """Tokens of a step among the experts of a layer: the most that one had over the mean, on
    average over layers, and the experts of all layers that had none.
    """

    most_over_mean: float
    num_unused: int


@torch.no_grad()
def take_load(model: nn.Module) -> ExpertLoad | None:
    """Return the load since this was asked last; None of a model without experts. Passes that are
    computed again in backward count again, which changes neither number.
    """
    modules = [module for module in model.modules() if LOAD in module.__dict__]
    if not modules:
        return None
    loads = torch.stack([module.__dict__.pop(LOAD) for module in modules]).float()
    shares = loads.amax(1) / loads.mean(1)
    most, unused = torch.stack((shares.mean(), (loads == 0).sum())).tolist()
    return ExpertLoad(most, int(unused))


def quantize_experts(model: PreTrainedModel) -> None:
    """Round the experts' weights to e4m3 by row, in place, a layer at a time, or put those back
    into MXFP4 that came in it; let transformers' modules compute with them by `falqon_experts`.
    Raises `ModelError` where the config says MXFP4 of other weights.
    """
    quantize = quantize_mxfp4 if getattr(model.config, EXPERT_FORMAT, None) else quantize_codes
    modules = [module for module in model.modules() if hasattr(module, "_apply_gate")]
    for module in modules:
        quantize_experts_of(module, quantize)
    if modules:
        model.set_experts_implementation(EXPERTS_NAME)


@torch.no_grad()
def quantize_experts_of(module: nn.Module, quantize: Quantize = quantize_codes) -> None:
    """Quantize the weights of one layer's experts by row, in place."""
    for name in WEIGHTS:
        _quantize(module, name, quantize)


def quantize_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return bf16 [O, I] in MXFP4. Raises `ModelError` where that is not exact."""
    encoded = mxfp4.encode(weight)
    if encoded is None:
        raise ModelError(
            f"config.json says that the experts are in MXFP4 ({EXPERT_FORMAT}), and a weight of "
            "theirs is not; remove that key"
        )
    return encoded


def _quantize(module: Any, name: str, quantize: Quantize) -> None:
    weight = module._parameters.pop(name)
    # A transposed weight is a view: its rows have their inputs together in memory.
    parts: list[list[Tensor]] = [[], []]
    for expert in range(len(weight)):
        for values, part in zip(
            quantize(_by_row(module, weight[expert]).contiguous()), parts, strict=True
        ):
            part.append(values)
    for key, values in zip((name, name + SCALE_SUFFIX), parts, strict=True):
        module.register_buffer(key, _by_row(module, torch.stack(values)))


def _by_row(module: Any, weight: Tensor) -> Tensor:
    """Return a view with outputs before inputs of what the module has, or the reverse."""
    return weight.transpose(-1, -2) if module.is_transposed else weight


ALL_EXPERTS_FUNCTIONS.register(EXPERTS_NAME, falqon_experts)
