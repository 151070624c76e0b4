"""How the delta reaches the quantized rows: the two update rules, each an object with `start`, `after_step` and its stored tensors.

Anchored (ours): after each optimizer step every row is rebuilt from the immutable base,
`W_q[i], s_i = quantize_row(W0[i] + alpha/r * B_i . A)`. Nothing is ever dropped; B and A say everything.

TopK (published, FALQON, arXiv 2510.24061): the row-wise proxy update. Reproduced: one scale shared by the whole [W; A]; B is a buffer
that starts each step at zero, so the optimizer's step is B; the k rows with the largest ||B_i||_1 are folded in FP8 units,
`W_q[i] += B_i . A_q`, clamped to +-448 and rounded to nearest; then all of B is zeroed, unselected rows included, while Adam's moments
run on; alpha plays no part. With `a_init="quant_error"`, A = sqrt(S_r) V_r^T of the rounding error, as published. Not reproduced:
per-tensor e5m2 gradients and per-tensor activations (here both are rounded per token, and on CPU only when asked); the shared scale is
the next power of two; k is honoured (in the released code it is dead). What is given up by the rule itself: a step smaller than half a
code is lost.
"""

from typing import Protocol

import torch
from torch import Tensor

from falqon_core.meld.linear import MeldedLinear
from falqon_core.ops.quantize import E4M3_MAX, codes_of, power_of_two_scale, quantize_rows, round_to_grid_
from falqon_core.ops.refresh import refresh_rows
from falqon_core.spec.config import Recipe


class UpdateRule(Protocol):
    keeps_base: bool

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        """Fill the rows from the weight [O, I] and a chosen A [r, I] (fp32)."""

    def after_step(self, layer: MeldedLinear) -> Tensor:
        """Carry the delta, as the optimizer left it, into the rows. -> how many quantized values of the weight changed, int64 []."""

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        """What a checkpoint must hold of this layer."""

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None: ...


class Anchored:
    keeps_base = True

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        layer.a.copy_(quantize_rows(a.to(layer.rows.dtype))[0])
        layer.scale[layer.out_features :] = quantize_rows(layer.a)[1]
        self.after_step(layer)

    def after_step(self, layer: MeldedLinear) -> Tensor:
        assert layer.base is not None
        return refresh_rows(layer.weight, layer.scale[: layer.out_features], layer.base, layer.delta.detach(), layer.a, layer.factor)

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        a_scale = layer.scale[layer.out_features :]
        return {"delta": layer.delta.detach(), "a": codes_of(layer.a, a_scale), "a_scale": a_scale}

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None:
        layer.delta.detach().copy_(state["delta"])
        layer.scale[layer.out_features :] = state["a_scale"]
        layer.a.copy_(state["a"].float() * state["a_scale"])
        self.after_step(layer)


class TopK:
    keeps_base = False

    def __init__(self, num_update_rows: int) -> None:
        self.num_update_rows = num_update_rows

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        both = torch.cat([weight.float(), a])
        layer.scale.fill_(power_of_two_scale(both.abs().amax()))
        layer.rows.copy_(round_to_grid_(both, layer.scale))

    def after_step(self, layer: MeldedLinear) -> Tensor:
        delta = layer.delta.detach()
        chosen = delta.abs().sum(1).topk(min(self.num_update_rows, layer.out_features)).indices
        limit = float(E4M3_MAX * layer.scale[0])
        folded = layer.rows[chosen].float().addmm_(delta[chosen], layer.a.float()).clamp_(-limit, limit)
        new = round_to_grid_(folded, layer.scale[chosen]).to(layer.rows.dtype)
        changed = torch.count_nonzero(layer.rows[chosen] != new)
        layer.rows[chosen] = new
        delta.zero_()
        return changed

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        return {"rows": codes_of(layer.rows, layer.scale), "scale": layer.scale[0]}

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None:
        layer.scale.copy_(state["scale"].expand_as(layer.scale))
        layer.rows.copy_(state["rows"].float() * layer.scale)


def update_rule(recipe: Recipe) -> UpdateRule:
    """`recipe` is resolved."""
    if recipe.update_rule == "anchored":
        return Anchored()
    assert recipe.num_update_rows is not None, "resolve the recipe first"
    return TopK(recipe.num_update_rows)
