"""Gated delta nets (Qwen3.5) as llama.cpp has them.

It repeats the heads of keys side by side, (0, 1, .., 0, 1, ..), where transformers has each head
repeated in its place, (0, 0, .., 1, 1, ..); so heads of values are in another order, in all that
makes or reads them. Weights of norms are written with the one that transformers adds, and decays
as -exp(A_log).
"""

from typing import Any

from gguf import GGUFWriter
from torch import Tensor

from falqon_core.contract.formats import FormatUnavailable
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.mixers import GatedDelta

FAMILIES = ("qwen3_5_moe_text", "qwen3_5_text")
MROPE_SECTIONS = [11, 11, 10]  # Of transformers, where a config names none.
# llama.cpp's names of modules, by those within a layer.
NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}
# The same of parameters that no module has a weight for.
PARAMETERS = {"linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias"}


def add_delta_nets(writer: GGUFWriter, config: dict[str, Any]) -> None:
    """Write the sizes of delta nets, and rotary positions of a part of a head. Raises
    `FormatUnavailable` for layers that llama.cpp does not have.
    """
    mixer = _mixer(config)
    types = config["layer_types"]
    interval = types.index("full_attention") + 1 if "full_attention" in types else len(types) + 1
    regular = [
        "full_attention" if (layer + 1) % interval == 0 else "linear_attention"
        for layer in range(len(types))
    ]
    if types != regular or mixer.key_dim != mixer.value_dim:
        raise FormatUnavailable(
            "format: llama.cpp has delta nets only in all but every n-th layer, with keys and "
            "values of one size; take bf16"
        )
    writer.add_full_attention_interval(interval)
    writer.add_ssm_conv_kernel(mixer.kernel)
    writer.add_ssm_state_size(mixer.key_dim)
    writer.add_ssm_group_count(mixer.num_key_heads)
    writer.add_ssm_time_step_rank(mixer.num_value_heads)
    writer.add_ssm_inner_size(mixer.values)
    rope = config["rope_parameters"]
    writer.add_rope_dimension_sections([*rope.get("mrope_section", MROPE_SECTIONS), 0])


def convert_tensor(name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    """Return a tensor of the model, named as transformers names it, in llama.cpp's order."""
    part = name.partition(".linear_attn.")[2]
    if not part:
        return tensor.float() + 1 if name.endswith("norm.weight") else tensor
    mixer = _mixer(config)
    width, keys = mixer.value_dim, mixer.keys
    match part.removesuffix(".weight"):
        case "in_proj_qkv" | "conv1d":
            rows = tensor.squeeze(1) if tensor.ndim == 3 else tensor
            values = _tiled(rows[2 * keys :], mixer, width)
            whole = rows.clone()
            whole[2 * keys :] = values
            return whole
        case "in_proj_z":
            return _tiled(tensor, mixer, width)
        case "in_proj_a" | "in_proj_b" | "dt_bias":
            return _tiled(tensor, mixer, 1)
        case "A_log":
            return -_tiled(tensor, mixer, 1).float().exp()
        case "out_proj":
            return _tiled(tensor.t(), mixer, width).t()
    return tensor


def _mixer(config: dict[str, Any]) -> GatedDelta:
    mixer = ModelDimensions.from_config(config).mixer
    if not isinstance(mixer, GatedDelta):
        raise FormatUnavailable("format: the model has no delta net; take bf16")
    return mixer


def _tiled(values: Tensor, mixer: GatedDelta, width: int) -> Tensor:
    """Order the heads of rows [H width, ..] from those of one key together to one of each key."""
    heads = values.unflatten(0, (mixer.num_key_heads, -1, width))
    return heads.transpose(0, 1).flatten(0, 2)
