"""Mixtures of experts as llama.cpp has them: of each layer the gates of all experts in one tensor
[E, I, H], and so up and down.
"""

from typing import Any

import torch
from gguf import ExpertGatingFuncType, GGUFWriter
from torch import Tensor

from falqon_core.estimate.dimensions import ModelDimensions

GLM = "glm4_moe"
_OF_SHARED = {
    f"mlp.{name}.{part}_proj": f"ffn_{part}_shexp"
    for name in ("shared_expert", "shared_experts")
    for part in ("gate", "up", "down")
}
# llama.cpp's names of modules, by those within a layer.
NAMES = _OF_SHARED | {
    "mlp.gate": "ffn_gate_inp",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
# The same of parameters that no module has a weight for.
PARAMETERS = {"mlp.gate.e_score_correction_bias": "exp_probs_b.bias"}
# Routers, in fp32 as llama.cpp multiplies them.
ROUTERS = (".mlp.gate.weight", ".mlp.router.weight", ".mlp.shared_expert_gate.weight")


def add_experts(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Write the numbers of a mixture; `config` has transformers' defaults."""
    experts = ModelDimensions.from_config(config).experts
    assert experts is not None, "a mixture has experts"
    writer.add_expert_count(experts.num_experts)
    writer.add_expert_used_count(experts.num_active)
    writer.add_expert_feed_forward_length(experts.intermediate_size)
    if (shared := config.get("shared_expert_intermediate_size")) is not None:
        writer.add_expert_shared_feed_forward_length(shared)
    if config["model_type"] == GLM:
        writer.add_expert_shared_count(config["n_shared_experts"])
        writer.add_leading_dense_block_count(config["first_k_dense_replace"])
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_weights_norm(config["norm_topk_prob"])


def take_experts(name: str, num_experts: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take from `tensors` what transformers calls `name`, the weights of all experts of a layer, in
    whichever form they are stored; return them by projection.
    """
    layer, _, part = name.rpartition(".")
    if part.endswith("_bias") or f"{name}_bias" in tensors:
        return _take_interleaved(layer, part, tensors.pop(name))
    parts = ["gate_proj", "up_proj"] if part == "gate_up_proj" else [part]
    if name in tensors:
        weights = tensors.pop(name).chunk(len(parts), 1)
        return {f"{layer}.{part}.weight": own for part, own in zip(parts, weights, strict=True)}
    return {
        f"{layer}.{part}.weight": torch.stack(
            [tensors.pop(f"{layer}.{expert}.{part}.weight") for expert in range(num_experts)]
        )
        for part in parts
    }


def _take_interleaved(layer: str, part: str, values: Tensor) -> dict[str, Tensor]:
    """Return weights [E, I, O], or biases [E, O], of gpt-oss by projection: there inputs come
    first, and rows of gate and up in turn.
    """
    part, kind = (
        (part.removesuffix("_bias"), "bias") if part.endswith("_bias") else (part, "weight")
    )
    rows = values.transpose(1, 2) if kind == "weight" else values
    if part == "down_proj":
        return {f"{layer}.{part}.{kind}": rows}
    return {f"{layer}.gate_proj.{kind}": rows[:, 0::2], f"{layer}.up_proj.{kind}": rows[:, 1::2]}
