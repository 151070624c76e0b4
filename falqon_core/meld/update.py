"""Update rules: they carry the delta B [O, r] into the quantized rows of W [O, I] after each
optimizer step. Each is an object with `start`, `after_step` and its stored tensors.

Anchored (ours): after each optimizer step every row is rebuilt from the immutable base, `W_q[i],
s_i = quantize_row(W0[i] + alpha/r * B_i . A)`. Nothing is ever dropped; B and A say everything.
Where A trains as well (`train_a`), its rows are first rounded again from its fp32 master.

Stochastic: the anchored rule without a base (`base_copy="none"`), for models whose base fits
nowhere. As in TopK the optimizer's step is B; all of it is added to the rows in place and rounded
up or down by chance, so that it arrives on average, with noise.

TopK (published, FALQON, arXiv 2510.24061): the row-wise proxy update. Reproduced: one scale shared
by the whole [W; A]; B is a buffer that starts each step at zero, so the optimizer's step is B; the
k rows with the largest ||B_i||_1 are folded in FP8 units, `W_q[i] += B_i . A_q`, clamped to +-448
and rounded to nearest; then all of B is zeroed, unselected rows included, while Adam's moments run
on; alpha plays no part. With `a_init="quant_error"`, A = sqrt(S_r) V_r^T of the rounding error, as
published. Not reproduced: per-tensor e5m2 gradients and per-tensor activations (here both are
rounded per token, and on CPU only when asked); the shared scale is the next power of two; k is
honoured (in the released code it is dead). What is given up by the rule itself: a step smaller than
half a code is lost.
"""

from typing import Protocol

import torch
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.rows_view import RandomKey
from falqon_core.ops.quantize import dequantize, power_of_two_scale, quantize_rows, round_to_grid_


class UpdateRule(Protocol):
    """A rule of one training; it keeps no tensor of a layer itself."""

    keeps_base: bool  # True where layers need their weight [O, I] as it came.

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        """Fill the rows from the weight [O, I] and a chosen A [r, I] (fp32)."""

    def after_step(self, layer: MeldedLinear, changed: Tensor | None = None) -> Tensor:
        """Carry the delta, as the optimizer left it, into the rows. Return the number of changed
        quantized values of the weight, int64 []: `changed`, to which it is added, or a new tensor.
        """

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold of this layer."""

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None:
        """Fill the layer, whose rows are empty, from the tensors that `state` returned."""


class Anchored:
    """The anchored rule: rows are rebuilt from the base and the whole delta."""

    keeps_base = True

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        # A passes through the weight's dtype (bf16), as all that the model computes with.
        """Round A to e4m3 rows, then W: with B = 0 the rows are those of the weight alone."""
        layer.a_rows.write(*quantize_rows(a.to(weight)))
        if layer.a_master is not None:
            # The master starts on the grid, at the very values that forward multiplies.
            layer.a_master.detach().copy_(layer.a)
        layer.refresh()

    def after_step(self, layer: MeldedLinear, changed: Tensor | None = None) -> Tensor:
        # The order matters: the rows of W hold B . A with A as it is rounded now.
        """Round A from its master, then rebuild all rows of W; int64 [] values of W changed."""
        layer.round_a()
        return layer.refresh(changed)

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        """Return B fp32 [O, r]; A as e4m3 [r, I] and scale fp32 [r, 1]; its master fp32 [r, I]
        where it trains. The rows of W follow from these and the base.
        """
        a, a_scale = layer.a_rows.copy_quantized()
        state = {"delta": layer.delta.detach(), "a": a, "a_scale": a_scale}
        if layer.a_master is not None:
            state["a_master"] = layer.a_master.detach()
        return state

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None:
        """Restore B and A, then rebuild W; the codes are those of the checkpoint, bit for bit."""
        layer.delta.detach().copy_(state["delta"])
        layer.a_rows.write(
            dequantize(state["a"], state["a_scale"], torch.float32), state["a_scale"]
        )
        if layer.a_master is not None:
            # An A that an earlier version kept frozen has no master stored: it trains from its
            # rows.
            layer.a_master.detach().copy_(state.get("a_master", layer.a))
        layer.refresh()


class TopK:
    """The published rule, for comparison: `num_update_rows` rows of the delta a step, one shared
    scale.
    """

    keeps_base = False

    def __init__(self, num_update_rows: int) -> None:
        self.num_update_rows = num_update_rows

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        """Round [W; A] under one scale, the smallest power of two at which nothing saturates."""
        weight = weight.to(torch.float32, copy=True)
        a = a.to(weight.device, torch.float32, copy=True)
        # fp32 []: one number for every row, so that B . A can be added in units of W's codes.
        scale = power_of_two_scale(torch.maximum(weight.abs().amax(), a.abs().amax()))
        layer.w_rows.write(round_to_grid_(weight, scale), scale)
        layer.a_rows.write(round_to_grid_(a, scale), scale)

    def after_step(self, layer: MeldedLinear, changed: Tensor | None = None) -> Tensor:
        """Fold the rows of largest ||B_i||_1, then drop the rest of B with them."""
        delta = layer.delta.detach()
        # Row indices, int64 [k].
        rows = delta.abs().sum(1).topk(min(self.num_update_rows, layer.out_features)).indices
        # The addition is rounded to nearest, so a step below half a code's spacing leaves no trace.
        changed = layer.w_rows.fold(rows, delta, layer.a, changed)
        delta.zero_()
        return changed

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        """Return the codes of [W; A], e4m3 [O + r, I], and their scale, fp32 [1]."""
        weight, scale = layer.quantized_weight()
        a = layer.a_rows.qdata
        # torch.cat takes no e4m3, so the bytes are joined.
        rows = torch.cat([weight.view(torch.uint8), a.view(torch.uint8)]).view(weight.dtype)
        return {"rows": rows, "scale": scale[0]}

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None:
        """Fill W and A from the stored codes; exact."""
        values = dequantize(state["rows"], state["scale"], torch.float32)
        layer.w_rows.write(values[: layer.out_features], state["scale"])
        layer.a_rows.write(values[layer.out_features :], state["scale"])


class Stochastic:
    """The rule without a base: each step is added to the codes and rounded up or down by chance,
    with the probability that makes its mean exact.
    """

    keeps_base = False

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def start(self, layer: MeldedLinear, weight: Tensor, a: Tensor) -> None:
        """Round W and A to e4m3 by row; the weight itself may be freed after it."""
        layer.w_rows.write(*quantize_rows(weight))
        layer.a_rows.write(*quantize_rows(a.to(weight)))

    def after_step(self, layer: MeldedLinear, changed: Tensor | None = None) -> Tensor:
        """Fold scaling * B . A into W, then begin the next step with B = 0."""
        delta = layer.delta.detach()
        # Random bits depend on seed, step, layer, row and column alone: ranks and resumed runs
        # agree.
        key = RandomKey(self.seed, layer.num_folds, layer.layer_index)
        changed = layer.w_rows.fold_stochastic(delta, layer.a, layer.scaling, key, changed)
        layer.num_folds += 1
        delta.zero_()
        return changed

    def state(self, layer: MeldedLinear) -> dict[str, Tensor]:
        """Return W and A, e4m3 [O, I] and [r, I] with scales fp32 [.., 1], and the steps so far,
        int64 []. B is zero between steps.
        """
        weight, scale = layer.quantized_weight()
        a, a_scale = layer.a_rows.copy_quantized()
        return {
            "weight": weight,
            "scale": scale,
            "a": a,
            "a_scale": a_scale,
            "num_folds": torch.tensor(layer.num_folds),
        }

    def load(self, layer: MeldedLinear, state: dict[str, Tensor]) -> None:
        """Fill W and A from the stored codes and take up the count of steps; exact."""
        layer.w_rows.write(
            dequantize(state["weight"], state["scale"], torch.float32), state["scale"]
        )
        layer.a_rows.write(
            dequantize(state["a"], state["a_scale"], torch.float32), state["a_scale"]
        )
        layer.num_folds = int(state["num_folds"])


def update_rule(recipe: Recipe) -> UpdateRule:
    """Return the rule of a resolved recipe."""
    if recipe.base_copy == "none":
        return Stochastic(recipe.seed)
    if recipe.update_rule == "anchored":
        return Anchored()
    assert recipe.num_update_rows is not None, "resolve the recipe first"
    return TopK(recipe.num_update_rows)
