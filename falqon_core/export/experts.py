"""The routed experts of a mixture as they are written: codes and scales of each expert's linears,
under the names of published files.

A family whose files hold all experts of a layer in one tensor (Granite, gpt-oss) has no FP8 form of
it that engines read, so its experts are written in bf16, which holds codes times scales exactly.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.importers.published_names import published

SCALE_SUFFIX = "_scale"


def expert_codes(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the codes of all experts, e4m3 [E, O, I] or transposed, by the model's own names."""
    state = model.state_dict()
    return {
        name: value
        for name, value in state.items()
        if value.dtype == torch.float8_e4m3fn and name + SCALE_SUFFIX in state
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
        return published(
            model,
            {
                name: (value.float() * scales[name]).to(torch.bfloat16)
                for name, value in codes.items()
            },
        )
    of_rows = published(model, scales)
    return weights | {name + SCALE_SUFFIX: value for name, value in of_rows.items()}


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
