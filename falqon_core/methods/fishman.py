"""LoRA in the FP8 of Fishman et al., "Scaling FP8 training to trillion-token LLMs" (arXiv
2409.12517): base and adapters are linears that multiply in FP8 alone.

Forward, x and W are cast to e4m3; backward, dy to e5m2 with stochastic rounding, and x and W to
e5m2. A tensor has one scale, a power of two, which is *delayed*: 2^floor(log2(max / amax)), with
amax the largest magnitude of the last `HISTORY_STEPS` optimizer steps (`AmaxHistory`).
Smooth-SwiGLU divides up by its token's largest magnitude, and multiplies what down makes of it. The
optimizer's moments are e4m3 and e5m2 (train.optimizer). Merging rounds the bf16 weight and its
adapter to FP8 by row once.

As the authors' released code has it, where that differs from the paper: Smooth-SwiGLU is by token,
not by channel. Where we differ from both: e4m3 reaches 448 here, not Gaudi's 240. Their history is
1024 calls, the ones of a single step; a step has few calls here, so 16 steps. They start at scale
1; in the first step ours is from the tensor itself, for fine-tuning's gradients are below e5m2's
smallest number and would be noise. A weight's history ends with the weight itself, for B grows
from zero, and a scale from before would cut it off.

What is given up: their fp16 master weights (the adapters' are fp32); FP8 GEMMs backward, which no
NVIDIA GPU has for two operands in e5m2, so that this method says what such a training learns, not
how fast it is. Ranks round with the same random bytes, and each its own tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.loader import Microbatch
from falqon_core.meld.blocks import SwiGLU
from falqon_core.meld.linear import call_together
from falqon_core.methods.adapter import AdaptedLinear, Adapter
from falqon_core.methods.frozen import DenseLinear, FrozenLinear
from falqon_core.methods.lora import Lora
from falqon_core.ops.formats.float8 import (
    E4M3,
    E5M2,
    Float8,
    multiply,
    power_of_two_factor,
    quantize_by,
    quantize_stochastically,
)
from falqon_core.ops.stochastic import random_bytes

HISTORY_STEPS = 16
INPUT, WEIGHT, GRADIENT = range(3)
AMAX_HISTORY = "amax_history"
NUM_STEPS_KEY = "num_steps"


class Fishman(Lora):
    """The method: adapters beside frozen linears, all products in FP8 with delayed scales."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.history = AmaxHistory(recipe.seed)

    def create_base(self, name: str, weight: Tensor, stored: dict[str, Tensor]) -> FrozenLinear:
        """Return a bf16 linear, cast to FP8 for each product, with its place in the history."""
        return DelayedLinear(weight, self.history.add_product())

    def create_adapter(self, name: str, weight: Tensor) -> Adapter:
        """Return an adapter whose two products are in FP8, with their places in the history."""
        adapter = DelayedAdapter(name, weight, self.recipe.rank, self.scaling, self.recipe.seed)
        adapter.products = self.history.add_product(), self.history.add_product()
        return adapter

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Convert the model, take up every weight's magnitude, and smooth its SwiGLUs."""
        super().prepare(model, first_microbatches)
        weights = [
            weight.detach()
            for layer in self.layers.values()
            for weight in (layer.base.master(), *layer.adapter.parameters())
        ]
        self.history.start(weights)
        smooth_swiglus(model)

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Convert the model and load the history fp32 [N, 3, HISTORY_STEPS] of the checkpoint."""
        super().restore(model, state)
        self.history.load(state[AMAX_HISTORY].to(model.device), int(state[NUM_STEPS_KEY]))
        smooth_swiglus(model)

    def maxima(self) -> Tensor:
        """Return this step's magnitudes, fp32 [N, 3]: ranks share scales, so the largest counts."""
        return self.history.recent

    @torch.no_grad()
    def after_step(self) -> float:
        """End the step in the history; nothing is requantized in place, so the share is 0."""
        self.history.end_step([value.detach() for value in self.parameters().values()])
        return 0.0

    def state(self) -> dict[str, Tensor]:
        """Return the adapters' tensors with the history and its count of steps."""
        num_steps = torch.tensor(self.history.num_steps)
        return super().state() | {AMAX_HISTORY: self.history.steps, NUM_STEPS_KEY: num_steps}

    def merge(self, model: PreTrainedModel) -> None:
        """Merge the adapters, and give SwiGLU back to the blocks that were smoothed."""
        super().merge(model)
        for mlp in model.modules():
            if isinstance(mlp, SmoothSwiGLU):
                mlp.__class__ = SwiGLU


class AmaxHistory:
    """The largest magnitudes of the three tensors of every product, and the factors that follow
    from them. The N products come in threes: with the base, A and B of a linear.

    steps    fp32 [N, 3, HISTORY_STEPS], the newest first; 0 where there was none.
    recent   fp32 [N, 3], of the step that is under way; a weight's is exact.
    factors  fp32 [N, 3] by format; changed between steps only, so a forward that is computed again
             for backward is the same.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.num_steps = 0
        self.num_rows: list[int] = []  # Rows of gradients rounded in this step, by product.

    def add_product(self) -> "DelayedProduct":
        """Return the next product, whose index is its row in the history."""
        self.num_rows.append(0)
        return DelayedProduct(self, len(self.num_rows) - 1)

    def start(self, weights: Sequence[Tensor]) -> None:
        """Begin with the magnitude of every product's weight."""
        # fp32 [N, 3, HISTORY_STEPS]: only weights are known before the first step.
        steps = weights[0].new_zeros(len(self.num_rows), 3, HISTORY_STEPS, dtype=torch.float32)
        steps[:, WEIGHT, 0] = amax_of(weights)
        self.load(steps, 0)

    def load(self, steps: Tensor, num_steps: int) -> None:
        """Take up a history fp32 [N, 3, HISTORY_STEPS] after `num_steps` optimizer steps."""
        self.steps = steps
        self.recent = torch.zeros_like(steps[..., 0])
        self.num_steps = num_steps
        self._set_factors()

    def end_step(self, trained: Sequence[Tensor]) -> None:
        """Take up the magnitudes of the step, and A and B of every linear as the step left them."""
        # The base never changes, so its magnitude is carried on; those of A and B are measured.
        self.recent[:, WEIGHT] = self.steps[:, WEIGHT, 0]
        # [linears, (base, A, B), (input, weight, gradient)]
        self.recent.view(-1, 3, 3)[:, 1:, WEIGHT] = amax_of(trained).view(-1, 2)
        # The oldest of the HISTORY_STEPS columns falls out.
        self.steps = torch.cat([self.recent[..., None], self.steps[..., :-1]], -1)
        self.recent.zero_()
        self.num_steps += 1
        self.num_rows = [0] * len(self.num_rows)
        self._set_factors()

    def _set_factors(self) -> None:
        # fp32 [N, 3]
        amax = self.steps.amax(-1)
        self.factors = {dtype: power_of_two_factor(amax, dtype) for dtype in (E4M3, E5M2)}


class DelayedProduct:
    """x W^T of one linear, differentiable in both."""

    def __init__(self, history: AmaxHistory, index: int) -> None:
        """`index` is its place in the model and among the keys of its random bytes."""
        self.history = history
        self.index = index

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return [.., O] in the dtype of x, from x [.., I] and W [O, I]. For backward it keeps W,
        and where W trains the codes of x. Only where there will be a backward do its tensors count
        for later scales.
        """
        output: Tensor = _DelayedMatmul.apply(x, weight, self, torch.is_grad_enabled())
        return output

    def factors(self, x: Tensor, operand: int, is_recorded: bool) -> dict[torch.dtype, Tensor]:
        """Return the factors of x, a gradient or an input, by format: fp32 [], powers of two."""
        history = self.history
        amax = None
        if is_recorded or history.num_steps == 0:
            amax = x.abs().amax().float()
        if is_recorded:
            recent = history.recent[self.index, operand]
            # `recent` is a view of one element: the history is written without a wait for the
            # device.
            torch.maximum(recent, amax, out=recent)
        if history.num_steps == 0:
            return {dtype: power_of_two_factor(amax, dtype) for dtype in history.factors}
        return {dtype: each[self.index, operand] for dtype, each in history.factors.items()}

    def quantize_weight(self, weight: Tensor, dtype: torch.dtype) -> Float8:
        """Return the codes of W [O, I] in `dtype`, by the factor of the last steps."""
        return quantize_by(weight, self.history.factors[dtype][self.index, WEIGHT], dtype)

    def quantize_gradient(self, grad: Tensor) -> Float8:
        """Round dy [T, O]; the next call of the same step has other random bytes."""
        history = self.history
        # Rows of all microbatches of a step are numbered through, so no two share random bytes.
        start = history.num_rows[self.index]
        history.num_rows[self.index] += len(grad)
        random = random_bytes(
            slice(start, start + len(grad)),
            grad.shape[1],
            history.seed,
            history.num_steps,
            self.index,
            grad.device,
        )
        factor = self.factors(grad, GRADIENT, is_recorded=True)[E5M2]
        return quantize_stochastically(grad, factor, random)


class _DelayedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, product: DelayedProduct, is_recorded: bool
    ) -> Tensor:
        # [T, I]; every token counts for the one scale of the tensor.
        rows = x.reshape(-1, x.shape[-1])
        factors = product.factors(rows, INPUT, is_recorded)
        # Codes and factor of x in e5m2, where W trains: one byte an element instead of two.
        kept = (None, None)
        if ctx.needs_input_grad[1]:
            kept = quantize_by(rows, factors[E5M2], E5M2)
        ctx.save_for_backward(weight, *kept)
        ctx.product = product
        of_weight = product.quantize_weight(weight, E4M3)
        # e4m3 [T, I] . e4m3 [O, I]^T -> [T, O]
        output = multiply(quantize_by(rows, factors[E4M3], E4M3), of_weight, x.dtype)
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        dtype = grad_output.dtype
        # e5m2 [T, O], rounded stochastically
        grad = ctx.product.quantize_gradient(grad_output.reshape(-1, grad_output.shape[-1]))
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            of_weight = ctx.product.quantize_weight(weight, E5M2)
            # [T, O] . [O, I] -> [T, I]
            grad_rows = multiply(grad, of_weight.t(), dtype)
            grad_x = grad_rows.view(*grad_output.shape[:-1], -1)
        if ctx.needs_input_grad[1]:
            # [O, T] . [T, I] -> [O, I]
            grad_weight = multiply(grad.t(), Float8(*kept).t(), dtype).to(weight.dtype)
        return grad_x, grad_weight, None, None


class DelayedLinear(DenseLinear):
    """The base of a linear: bf16 [O, I], cast to FP8 for each product."""

    def __init__(self, weight: Tensor, product: DelayedProduct) -> None:
        super().__init__(weight)
        self.product = product

    def dequantize(self) -> Tensor:
        """Return the weight as forward multiplies it: rounded to e4m3, [O, I]."""
        return self.product.quantize_weight(self.weight, E4M3).dequantize(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T [.., O] in FP8."""
        return self.product(x, self.weight)


class DelayedAdapter(Adapter):
    """An adapter in FP8; `products` are those with A and with B."""

    products: tuple[DelayedProduct, DelayedProduct]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y [.., O] with the adapter's product added, in FP8."""
        with_a, with_b = self.products
        # (x A^T) B^T: [T, r], then [T, O], both in FP8.
        return y.add(with_b(with_a(x, self.lora_a), self.lora_b), alpha=self.scaling)


class SmoothSwiGLU(SwiGLU):
    """down(silu(gate) * up / s) s, with s the largest |up| of a token, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the MLP's output [.., H] of x [.., H]."""
        gate, up = call_together(x, self.gate_proj, self.up_proj)
        # [.., 1]: down then reads values of similar size in all tokens.
        scale = up.detach().abs().amax(-1, keepdim=True).clamp_(min=1e-12)
        down = self.down_proj
        # silu(gate) * up / s, [.., I], which down quantizes with one scale for all tokens.
        hidden = self.gated(gate, up / scale)
        y = down.adapter(hidden, down.base(hidden)) * scale
        return y if down.bias is None else y + down.bias


def smooth_swiglus(model: nn.Module) -> None:
    """Turn the MLPs whose down is computed in FP8 into smooth ones, in place, by their class."""
    for mlp in model.modules():
        if type(mlp) is SwiGLU and isinstance(mlp.down_proj, AdaptedLinear):
            mlp.__class__ = SmoothSwiGLU


def amax_of(weights: Sequence[Tensor]) -> Tensor:
    """Return the largest magnitude of each weight, fp32 [N]."""
    return torch.stack(torch._foreach_norm(list(weights), float("inf"))).float()
