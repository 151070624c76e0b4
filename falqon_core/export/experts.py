"""The routed experts of a mixture as they are written: codes and scales of each expert's linears,
under the names of published files.

A family whose files hold all experts of a layer in one tensor (Granite, gpt-oss) has no FP8 form of
it that engines read, so its experts are written in bf16, which holds codes times scales exactly,
as it holds MXFP4.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.importers.mxfp4 import decode
from falqon_core.importers.published_names import published

SCALE_SUFFIX = "_scale"
CODES = (torch.float8_e4m3fn, torch.uint8)


def expert_codes(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the codes of all experts by the model's own names: e4m3 [E, O, I], or MXFP4 in uint8
    [E, O, I / 2], or transposed.
    """
    state = model.state_dict()
    return {
        name: value
        for name, value in state.items()
        if value.dtype in CODES and name + SCALE_SUFFIX in state
    }


def expert_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the tensors to write of all experts, by published names; nothing of a dense model."""
    codes = expert_codes(model)
    if not codes:
        return {}
    state = model.state_dict()
    scales = {name: state[name + SCALE_SUFFIX] for name in codes}
    weights = published(model, codes)
    if not are_apart(weights):
        values = {name: _values(model, name, codes[name], scales[name]) for name in codes}
        return published(model, values)
    of_rows = published(model, scales)
    return weights | {name + SCALE_SUFFIX: value for name, value in of_rows.items()}


def _values(model: PreTrainedModel, name: str, codes: Tensor, scales: Tensor) -> Tensor:
    """Return the weights of a layer's experts in bf16, which holds them exactly."""
    if codes.dtype != torch.uint8:
        return (codes.float() * scales).to(torch.bfloat16)
    is_transposed = model.get_submodule(name.rpartition(".")[0]).is_transposed
    if is_transposed:
        codes, scales = codes.transpose(1, 2), scales.transpose(1, 2)
    values = torch.stack([decode(*pair) for pair in zip(codes, scales, strict=True)])
    return values.transpose(1, 2) if is_transposed else values


def are_apart(weights: dict[str, Tensor]) -> bool:
    """Check that each expert's weights are tensors of their own."""
    return all(weight.dim() == 2 for weight in weights.values())


def unquantized_names(model: PreTrainedModel) -> list[str]:
    """Return the names, or patterns, of a mixture's linears that are written in bf16 although no
    `nn.Linear` holds them: routers, and the experts that have no FP8 form.
    """
    codes = expert_codes(model)
    if not codes:
        return []
    routers = {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if type(module).__name__.lower().endswith("topkrouter")
    }
    names = [name.removesuffix(".weight") for name in published(model, routers)]
    return names if are_apart(published(model, codes)) else [*names, r"re:.*\.experts\..*"]
