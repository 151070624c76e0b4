"""Routed experts with frozen weights, registered with transformers under the name `falqon`.

The weights of all experts of a layer are e4m3 codes with a scale for each row: gate_up_proj [E, 2I,
H], down_proj [E, H, I], and `<name>_scale` fp32 [E, O, 1]; both transposed where the module has its
weights so (gpt-oss). Those of a model whose config says so (`expert_format`) came in MXFP4 and are
kept in it (importers/mxfp4.py): [E, O, I / 2] and [E, O, I / 32], both uint8. One expert at a time
is dequantized and multiplied with the tokens that chose it, in both passes; experts that no token
chose are not touched. Only the layer's input is kept for backward, and what the experts computed of
it is computed again. The sum over a token's experts is fp32 and in a fixed order. What is given up:
on a GPU too the experts follow one another, where a grouped GEMM would take them at once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from falqon_core.contract.errors import ModelError
from falqon_core.contract.model_folder import EXPERT_FORMAT
from falqon_core.importers import mxfp4
from falqon_core.ops.matmul import matmul
from falqon_core.ops.quantize import dequantize, quantize_codes

EXPERTS_NAME = "falqon"
WEIGHTS = ("gate_up_proj", "down_proj")
SCALE_SUFFIX = "_scale"
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
    lengths = torch.bincount(experts, minlength=module.num_experts).tolist()
    # Copies of a token are made before they are sorted: then no gradient is scattered.
    rows = x.repeat_interleave(num_active, 0)[order]
    outputs = torch.cat(
        [
            _expert(module, expert, part)
            for expert, part in enumerate(rows.split(lengths))
            if len(part)
        ]
    )
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    outputs = outputs[place].view(num_tokens, num_active, -1).float()
    return (outputs * weights[:, :, None]).sum(1).to(x.dtype)


def _expert(module: Any, expert: int, x: Tensor) -> Tensor:
    """Return the output of one expert, [n, H] of [n, H]."""
    gate_up = _linear(module, "gate_up_proj", expert, x)
    return _linear(module, "down_proj", expert, module._apply_gate(gate_up))


def _linear(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    codes, scale = (
        _by_row(module, getattr(module, key)[expert]) for key in (name, name + SCALE_SUFFIX)
    )
    y: Tensor = _DequantizedMatmul.apply(x, codes, scale)
    return y + getattr(module, f"{name}_bias")[expert] if module.has_bias else y


class _DequantizedMatmul(torch.autograd.Function):
    """(x [n, I], codes [O, I], scale [O, 1]) -> [n, O], differentiable in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.weight = codes, scale
        return matmul(x, _values(codes, scale, x.dtype).t())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        codes, scale = ctx.weight
        return matmul(grad, _values(codes, scale, grad.dtype)), None, None


def _values(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights [O, I] of one expert."""
    decode = mxfp4.decode if codes.dtype == torch.uint8 else dequantize
    return decode(codes, scale, dtype)


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
