"""Turn a transformers causal LM into one that trains melded: freeze everything, swap the chosen
`nn.Linear`s for `MeldedLinear`s.

Works on any causal LM built from `nn.Linear`. The output head is left alone (and with it tied
embeddings), biases are kept and stay frozen. `swap_blocks` replaces the standard RMSNorm, SwiGLU
and attention modules by ours, which keep less for backward and call the linears that read the same
input together; other norms stay and are computed again in backward, and so are routers. Where the
rows turn out to be codes for FP8 GEMMs, decoder layers become fused ones. Parameters of norms,
biases, embeddings, routers and experts never train.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.contract.model_folder import GATE_LINEARS
from falqon_core.meld import init
from falqon_core.meld.block_quantizer import BlockQuantizer
from falqon_core.meld.blocks import (
    ATTENTIONS,
    GATED_MLPS,
    ActivatedMlp,
    Attention,
    GatedMlp,
    SwiGLU,
    recompute_in_backward,
)
from falqon_core.meld.fused import fuse_decoder_layers
from falqon_core.meld.host_arena import arena_bytes
from falqon_core.meld.host_base import HostBase
from falqon_core.meld.linear import MeldedLinear, meld
from falqon_core.meld.row_shard import WHOLE, RowShard
from falqon_core.meld.update import UpdateRule
from falqon_core.ops.quantize import quantize_rows
from falqon_core.ops.rms_norm import RMSNorm

SILU_MODULES = (nn.SiLU, SiLUActivation)
# Gemma adds one to the weight, OLMo 2, OLMo 3 and gpt-oss multiply by it in fp32: they keep theirs.
RMS_NORMS = {
    "Glm4MoeRMSNorm",
    "GraniteMoeRMSNorm",
    "GraniteRMSNorm",
    "Lfm2RMSNorm",
    "LlamaRMSNorm",
    "Ministral3RMSNorm",
    "MistralRMSNorm",
    "OlmoeRMSNorm",
    "Phi3RMSNorm",
    "Qwen2RMSNorm",
    "Qwen3MoeRMSNorm",
    "Qwen3RMSNorm",
    "SmolLM3RMSNorm",
}
# What vLLM fuses into one linear, in every family, with one global scale for NVFP4: the largest.
FUSED_IN_VLLM = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("in_proj_qkv", "in_proj_z"),
)


def target_linears(
    model: PreTrainedModel, target_modules: tuple[str, ...] | None
) -> dict[str, nn.Linear]:
    """Return the linears to meld, by full name: all but the output head and gates, or those whose
    last name part is in `target_modules`.

    Raises `ConfigError` (param `target_modules`) for a name that no linear has.
    """
    head = model.get_output_embeddings()
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not head
        and name.rpartition(".")[2] not in GATE_LINEARS
    }
    if target_modules is None:
        return linears
    module_names = {name.rpartition(".")[2] for name in linears}
    if unknown := sorted(set(target_modules) - module_names):
        raise ConfigError(
            f"target_modules: the model has no linear {unknown[0]!r}; it has "
            f"{', '.join(sorted(module_names))}",
            "target_modules",
        )
    return {
        name: linear
        for name, linear in linears.items()
        if name.rpartition(".")[2] in target_modules
    }


def convert_to_melded(
    model: PreTrainedModel,
    recipe: Recipe,
    rule: UpdateRule,
    sketches: Mapping[str, Tensor] | None = None,
    fresh: bool = True,
    shard: RowShard = WHOLE,
    quantizer: BlockQuantizer | None = None,
) -> dict[str, MeldedLinear]:
    """Swap in place, on the device of the model's embeddings, a group of linears at a time, which
    may come from elsewhere; returns the melded linears by full name, in the model's
    order.

    Linears that a block of `meld.blocks` calls together share their rows, so `swap_blocks` comes
    first; others are melded alone. `recipe` is resolved. `sketches` (see `init.gradient_sketches`)
    are needed for a_init "gradient". With `fresh=False` no A is chosen and the rows stay empty
    until the rule loads a checkpoint; of a `shard` only its rows are kept. With a `quantizer` the
    rows are in its blocks. Raises `ConfigError` where a target module is unknown, the rank exceeds
    a linear's inputs or these fill no whole blocks.
    """
    model.requires_grad_(False)
    device = model.get_input_embeddings().weight.device
    # Names only, no references to the modules: each weight is freed as it is converted.
    names = list(target_linears(model, recipe.target_modules))
    scaling = 1.0 if recipe.alpha is None else recipe.alpha / recipe.rank
    base_copy = (recipe.base_copy or "device") if rule.keeps_base else None
    host = None
    if base_copy == "host" and device.type != "cpu":
        host = HostBase(arena_bytes(_own_weights(model, names, shard)), device)
    melded: dict[str, MeldedLinear] = {}
    fitted = {} if quantizer is None else _fit(quantizer, model, names)
    for group in _groups(model, names):
        linears = [model.get_submodule(name).to(device) for name in group]
        _check_inputs(group[0], linears[0].in_features, recipe.rank, quantizer)
        trains_a = recipe.trains_a_of(
            sum(linear.out_features for linear in linears), linears[0].in_features
        )
        layers = meld(
            linears,
            recipe.rank,
            scaling,
            base_copy,
            recipe.simulate_fp8,
            host,
            trains_a,
            shard,
            fitted.get(group[0]),
        )
        for name, linear, layer in zip(group, linears, layers, strict=True):
            if fresh:
                weight = linear.weight.detach()
                with torch.no_grad():
                    a = _choose_a(name, weight, recipe, sketches, layer.block_quantizer)
                    rule.start(layer, weight, a)
            model.set_submodule(name, layer)
            melded[name] = layer
    if host is not None:
        host.lock()
    for layer_index, name in enumerate(names):
        # The index in the model's order keys random bits; groups do not change it.
        melded[name].layer_index = layer_index
    model.to(device)  # Linears that are not melded move here.
    fuse_decoder_layers(model)
    return {name: melded[name] for name in names}


def swap_blocks(model: nn.Module) -> None:
    """Replace the standard RMSNorm, attention and SwiGLU modules of the known architectures, in
    place; state dict names stay.
    """
    # Innermost first, because a block takes its children along.
    for parent in reversed(list(model.modules())):
        for name, child in list(parent.named_children()):
            kind = type(child).__name__
            if kind in RMS_NORMS:
                setattr(parent, name, RMSNorm(child.weight, child.variance_epsilon))
            elif kind.endswith("RMSNorm") or kind.lower().endswith("topkrouter"):
                child.forward = partial(recompute_in_backward, child.forward)
            elif kind in GATED_MLPS:
                setattr(parent, name, _gated_mlp(child))
            elif kind in ATTENTIONS:
                setattr(parent, name, Attention(child))


def _gated_mlp(mlp: nn.Module) -> GatedMlp:
    linears = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    if isinstance(mlp.act_fn, SILU_MODULES):
        return SwiGLU(*linears)
    return ActivatedMlp(*linears, mlp.act_fn)


def _groups(model: nn.Module, names: Sequence[str]) -> Iterator[list[str]]:
    """Yield all `names`, each once: those that a block calls together as one group if all of them
    are there, the others alone.
    """
    together: dict[str, list[str] | None] = {}
    for path, block in model.named_modules():
        if isinstance(block, (Attention, GatedMlp)):
            group = [f"{path}.{name}" for name in block.shared_input]
            if set(group) <= set(names):
                together |= dict.fromkeys(group[1:]) | {group[0]: group}
    for name in names:
        members = together.get(name, [name])
        if members is not None:
            yield members


def _fit(
    quantizer: BlockQuantizer, model: nn.Module, names: Sequence[str]
) -> dict[str, BlockQuantizer]:
    """Return the quantizer of each name, fitted to all that vLLM fuses with it."""
    fused: dict[tuple[str, str], list[str]] = {}
    for name in names:
        block, _, last = name.rpartition(".")
        together = next((each for each in FUSED_IN_VLLM if last in each), (last,))
        fused.setdefault((block, together[0]), []).append(name)
    fitted: dict[str, BlockQuantizer] = {}
    for group in fused.values():
        weights = [model.get_submodule(name).get_parameter("weight") for name in group]
        fitted |= dict.fromkeys(group, quantizer.fitted_to(weights))
    return fitted


def _check_inputs(name: str, num_inputs: int, rank: int, quantizer: BlockQuantizer | None) -> None:
    if rank > num_inputs:
        raise ConfigError(f"rank: {rank} is more than the {num_inputs} inputs of {name}", "rank")
    if quantizer is not None and num_inputs % quantizer.block:
        raise ConfigError(
            f"model: {name} has {num_inputs} inputs, no multiple of the {quantizer.block} weights "
            f"that a block of {quantizer.name} has"
        )


def _own_weights(model: nn.Module, names: Sequence[str], shard: RowShard) -> Iterator[Tensor]:
    """Yield the rows of all weights that are kept of a shard."""
    for group in _groups(model, names):
        weights = [model.get_submodule(name).get_parameter("weight") for name in group]
        for weight, own in zip(weights, shard.rows_by_linear(list(map(len, weights))), strict=True):
            yield weight[own]


def _choose_a(
    name: str,
    weight: Tensor,
    recipe: Recipe,
    sketches: Mapping[str, Tensor] | None,
    quantizer: BlockQuantizer | None,
) -> Tensor:
    if recipe.a_init == "orthonormal":
        return init.orthonormal(name, weight.shape[1], recipe.rank, recipe.seed)
    if recipe.a_init == "quant_error":
        # E = W - dequant(W_q), fp32 [O, I]
        quantize = quantize_rows if quantizer is None else quantizer.quantize
        error = weight.float() - quantize(weight.float())[0]
        return init.quant_error(error, recipe.rank, scaled=recipe.update_rule == "topk")
    assert sketches is not None, "a_init 'gradient' needs sketches"
    return init.top_right_singular_vectors(sketches[name], recipe.rank)
