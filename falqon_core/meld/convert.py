"""Turn a transformers causal LM into one that trains melded: freeze everything, swap the chosen `nn.Linear`s for `MeldedLinear`s.

Works on any causal LM built from `nn.Linear`. The output head is left alone (and with it tied embeddings), biases are kept and stay
frozen. `swap_activations` also replaces the standard RMSNorm and SwiGLU modules by those of `ops`, which keep less for backward.
What is given up: parameters of norms, biases and embeddings never train.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.meld import init
from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.update import UpdateRule
from falqon_core.ops.quantize import quantize_rows
from falqon_core.ops.rms_norm import RMSNorm
from falqon_core.ops.swiglu import SwiGLU
from falqon_core.spec.config import Recipe
from falqon_core.spec.errors import ConfigError

RMS_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
SWIGLU_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}


def target_linears(model: PreTrainedModel, target_modules: tuple[str, ...] | None) -> dict[str, nn.Linear]:
    """The linears to meld, by full name: all but the output head, or those whose last name part is in `target_modules`.

    Raises `ConfigError` (param `target_modules`) for a name that no linear has.
    """
    head = model.get_output_embeddings()
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head}
    if target_modules is None:
        return linears
    known = {name.rpartition(".")[2] for name in linears}
    if unknown := sorted(set(target_modules) - known):
        raise ConfigError(f"target_modules: the model has no linear {unknown[0]!r}; it has {', '.join(sorted(known))}", "target_modules")
    return {name: linear for name, linear in linears.items() if name.rpartition(".")[2] in target_modules}


def convert_to_melded(
    model: PreTrainedModel, recipe: Recipe, rule: UpdateRule, sketches: Mapping[str, Tensor] | None = None, fresh: bool = True
) -> dict[str, MeldedLinear]:
    """Swap in place; returns the melded linears by full name.

    `recipe` is resolved. `sketches` (see `init.gradient_sketches`) are needed for a_init "gradient". With `fresh=False` no A is chosen
    and the rows stay empty until the rule loads a checkpoint. Raises `ConfigError` for unknown target modules or too large a rank.
    """
    model.requires_grad_(False)
    melded = {}
    for name, linear in target_linears(model, recipe.target_modules).items():
        if recipe.rank > linear.in_features:
            raise ConfigError(f"rank: {recipe.rank} is more than the {linear.in_features} inputs of {name}", "rank")
        weight = linear.weight.detach()
        factor = 1.0 if recipe.alpha is None else recipe.alpha / recipe.rank
        layer = MeldedLinear(weight, linear.bias, recipe.rank, factor, rule.keeps_base, recipe.simulate_fp8)
        if fresh:
            with torch.no_grad():
                rule.start(layer, weight, _choose_a(name, weight, recipe, sketches))
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
        melded[name] = layer
    return melded


def swap_activations(model: nn.Module) -> None:
    """Replace the standard RMSNorm and SwiGLU modules of the known architectures, in place; state dict names stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            kind = type(child).__name__
            if kind in RMS_NORMS:
                setattr(parent, name, RMSNorm(child.weight, child.variance_epsilon))
            elif kind in SWIGLU_MLPS and isinstance(child.act_fn, nn.SiLU):
                setattr(parent, name, SwiGLU(child.gate_proj, child.up_proj, child.down_proj))


def _choose_a(name: str, weight: Tensor, recipe: Recipe, sketches: Mapping[str, Tensor] | None) -> Tensor:
    if recipe.a_init == "orthonormal":
        return init.orthonormal(name, weight.shape[1], recipe.rank, recipe.seed)
    if recipe.a_init == "quant_error":
        error = weight.float() - quantize_rows(weight.float())[0]
        return init.quant_error(error, recipe.rank, scaled=recipe.update_rule == "topk")
    assert sketches is not None, "a_init 'gradient' needs sketches"
    return init.top_right_singular_vectors(sketches[name], recipe.rank)
