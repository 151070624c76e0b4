"""Where the quantized rows of linears that read the same input lie, and the two GEMMs that read them.

q, k and v (or gate and up, or one linear by itself) with O_1..O_n outputs, I inputs and rank r own one matrix

    [W_1; W_2; ..; A_1; A_2; ..]   [sum O + n r, I], one fp32 scale [.., 1] a row,

so that forward is one GEMM for all outputs and all x A^T, and grad_input one GEMM with the contiguous [W_1; W_2; ..]. A linear sees
its weight, its A and their scales through slices; who updates them need not know that there are neighbours.

Two storages, chosen by device once, when a model is converted:
  EmulatedWeight  CPU. The dequantized values in the working dtype (bf16 holds them exactly, see ops/quantize.py); codes are derived when
              a file is written. 2 bytes a weight, because GEMMs on codes are three times slower there. `simulate_fp8` rounds
              activations and gradients as an FP8 GPU does.
  Fp8Weight    GPU. e4m3 codes, 1 byte a weight. With FP8 GEMMs a second copy of the W part, transposed, because grad_input contracts
              over the outputs and FP8 operands lie along the contraction; without them (`fp8=False`) codes are dequantized to bf16
              layer by layer and multiplied with unrounded activations: the same memory less a copy, the same checkpoint, no speed.

Backward of FP8: a weight's scale lies on the contraction axis of grad_input, so it is folded into the gradient first,
`grad_input = t * (q . codes)` with q, t = quantize(grad_output * scale) (method.md section 3).
What is given up: a group's rows cannot move to another kind of device once they are made.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from falqon_core.ops.quantize import E4M3_MAX, codes_of, dequantize, quantize_codes, quantize_rows, round_to_grid_
from falqon_core.ops.refresh import refresh_codes, refresh_rows
from falqon_core.ops.scaled_mm import ALIGNMENT, has_fp8_gemm, scaled_mm
from falqon_core.ops.stochastic import fold_stochastic
from falqon_core.ops.topk import fold_rows

HOST_BLOCK_ELEMENTS = 2**24  # of a base copy in host memory, on the device at a time: 32 MiB in bf16


class PackedWeight(nn.Module, ABC):
    """Buffers stay out of the state dict: base, A and delta say everything."""

    scale: Tensor
    rounds_activations: bool  # to e4m3, as an engine that serves the model does

    def __init__(self, sizes: Sequence[int], in_features: int, rank: int, num_rows: int, device: torch.device) -> None:
        super().__init__()
        self.sizes, self.in_features, self.rank = tuple(sizes), in_features, rank
        self.num_outputs = sum(sizes)
        self.register_buffer("scale", torch.ones(num_rows, 1, device=device), persistent=False)

    def weight_at(self, index: int) -> slice:
        """The rows of linear `index`."""
        start = sum(self.sizes[:index])
        return slice(start, start + self.sizes[index])

    def a_at(self, index: int) -> slice:
        """The rows of its A."""
        start = self.num_outputs + index * self.rank
        return slice(start, start + self.rank)

    @abstractmethod
    def output(self, x: Tensor) -> Tensor:
        """x [T, I] -> x . rows^T, at least sum O + n r columns, [y_1 | y_2 | .. | o_a_1 | o_a_2 | .. ]."""

    @abstractmethod
    def grad_input(self, grad_output: Tensor) -> Tensor:
        """[T, sum O] -> [T, I]."""

    @abstractmethod
    def values(self, at: slice) -> Tensor:
        """Dequantized rows, exact; not to be written to."""

    @abstractmethod
    def codes_at(self, at: slice) -> Tensor:
        """float8_e4m3fn; values = codes * scale exactly."""

    @abstractmethod
    def write(self, at: slice, values: Tensor, scale: Tensor) -> None:
        """Replace rows by values on the grid of `scale` (fp32, [rows, 1] or one number)."""

    @abstractmethod
    def refresh(self, at: slice, base: Tensor, delta: Tensor, a: Tensor, factor: float) -> Tensor:
        """Rebuild weight rows as quantize(base + factor * delta . a), see ops/refresh.py; -> changed values, int64 []."""

    @abstractmethod
    def fold(self, at: slice, chosen: Tensor, delta: Tensor, a: Tensor) -> Tensor:
        """Add delta . a to the rows `chosen` (int64 [k]) of those, scales unchanged, see ops/topk.py; -> changed values, int64 []."""

    @abstractmethod
    def fold_stochastic(self, at: slice, delta: Tensor, a: Tensor, factor: float, seed: int, step: int, layer: int) -> Tensor:
        """Add factor * delta . a to weight rows, rounded stochastically, see ops/stochastic.py; -> changed values, int64 []."""


class EmulatedWeight(PackedWeight):
    shadow: Tensor

    def __init__(self, sizes: Sequence[int], in_features: int, rank: int, like: Tensor, simulate_fp8: bool) -> None:
        """`like` gives the working dtype and the device."""
        super().__init__(sizes, in_features, rank, sum(sizes) + len(sizes) * rank, like.device)
        self.rounds_activations = simulate_fp8
        self.register_buffer("shadow", like.new_zeros(len(self.scale), in_features), persistent=False)

    def output(self, x: Tensor) -> Tensor:
        if self.rounds_activations:
            x, _ = quantize_rows(x)
        return x @ self.shadow.t()

    def grad_input(self, grad_output: Tensor) -> Tensor:
        weight = self.shadow[: self.num_outputs]
        if self.rounds_activations:
            scale = self.scale[: self.num_outputs]
            grad_output, _ = quantize_rows((grad_output * scale.t()).to(grad_output.dtype))
            weight = (weight / scale).to(weight.dtype)
        return grad_output @ weight

    def values(self, at: slice) -> Tensor:
        return self.shadow[at]

    def codes_at(self, at: slice) -> Tensor:
        return codes_of(self.shadow[at], self.scale[at])

    def write(self, at: slice, values: Tensor, scale: Tensor) -> None:
        self.shadow[at] = values.to(self.shadow.dtype)
        self.scale[at] = scale

    def refresh(self, at: slice, base: Tensor, delta: Tensor, a: Tensor, factor: float) -> Tensor:
        return refresh_rows(self.shadow[at], self.scale[at], base, delta, a, factor)

    def fold(self, at: slice, chosen: Tensor, delta: Tensor, a: Tensor) -> Tensor:
        rows, scale = self.shadow[at], self.scale[at][chosen]
        limit, old = E4M3_MAX * scale, rows[chosen]
        values = old.float().addmm_(delta[chosen], a.float()).clamp_(-limit, limit)
        new = round_to_grid_(values, scale).to(old.dtype)
        rows[chosen] = new
        return torch.count_nonzero(old != new)

    def fold_stochastic(self, at: slice, delta: Tensor, a: Tensor, factor: float, seed: int, step: int, layer: int) -> Tensor:
        """By way of the codes: three passes more than there need be, for a choice that is about a GPU's memory."""
        codes, scale = self.codes_at(at), self.scale[at]
        changed = fold_stochastic(codes, None, scale, delta, a, factor, seed, step, layer)
        self.shadow[at] = dequantize(codes, scale, self.shadow.dtype)
        return changed


class Fp8Weight(PackedWeight):
    codes: Tensor
    codes_t: Tensor | None
    unit: Tensor

    def __init__(self, sizes: Sequence[int], in_features: int, rank: int, device: torch.device, fp8: bool) -> None:
        """With `fp8` sum O and I must be multiples of 16; rows of zeros fill up what the ranks leave open."""
        num_rows = sum(sizes) + len(sizes) * rank
        super().__init__(sizes, in_features, rank, -(-num_rows // ALIGNMENT) * ALIGNMENT, device)
        self.fp8 = self.rounds_activations = fp8
        e4m3 = torch.float8_e4m3fn
        codes_t = torch.zeros(in_features, self.num_outputs, dtype=e4m3, device=device) if fp8 else None
        self.register_buffer("codes", torch.zeros(len(self.scale), in_features, dtype=e4m3, device=device), persistent=False)
        self.register_buffer("codes_t", codes_t, persistent=False)
        self.register_buffer("unit", torch.ones(in_features, 1, device=device), persistent=False)

    def output(self, x: Tensor) -> Tensor:
        if not self.fp8:
            return x @ dequantize(self.codes, self.scale, x.dtype).t()
        return self.output_of_codes(*quantize_codes(x))

    def output_of_codes(self, codes: Tensor, scale: Tensor) -> Tensor:
        """`output` of x that is quantized per token already: e4m3 codes [T, I], scale fp32 [T, 1]. Only with `fp8`."""
        return scaled_mm(codes, scale, self.codes, self.scale, fast_accumulation=True)

    def grad_input(self, grad_output: Tensor) -> Tensor:
        scale = self.scale[: self.num_outputs]
        if self.codes_t is None:
            return grad_output @ dequantize(self.codes[: self.num_outputs], scale, grad_output.dtype)
        return self.grad_input_of_codes(*quantize_codes(grad_output, scale.squeeze(1)))

    def grad_input_of_codes(self, codes: Tensor, scale: Tensor) -> Tensor:
        """`grad_input` of a gradient whose product with the weight's scales is quantized per token already. Only with `fp8`."""
        assert self.codes_t is not None, "these rows have no second layout"
        return scaled_mm(codes, scale, self.codes_t, self.unit)

    def values(self, at: slice) -> Tensor:
        return dequantize(self.codes[at], self.scale[at])

    def codes_at(self, at: slice) -> Tensor:
        return self.codes[at]

    def write(self, at: slice, values: Tensor, scale: Tensor) -> None:
        self.scale[at] = scale
        self.codes[at] = codes_of(values, scale)
        if self.codes_t is not None and at.start < self.num_outputs:  # A has no part in the second layout
            self.codes_t[:, at] = self.codes[at].t()

    def refresh(self, at: slice, base: Tensor, delta: Tensor, a: Tensor, factor: float) -> Tensor:
        """A base in host memory passes through the device in blocks of rows."""
        num_rows = base.shape[0]
        block = num_rows if base.device == self.codes.device else max(1, HOST_BLOCK_ELEMENTS // self.in_features)
        changed = torch.zeros((), dtype=torch.int64, device=self.codes.device)
        for start in range(0, num_rows, block):
            part = slice(start, min(start + block, num_rows))
            base_block = base[part].to(self.codes.device, non_blocking=True)
            changed += refresh_codes(*self._layouts(slice(at.start + part.start, at.start + part.stop)), base_block, delta[part], a, factor)
        return changed

    def fold(self, at: slice, chosen: Tensor, delta: Tensor, a: Tensor) -> Tensor:
        return fold_rows(*self._layouts(at), delta, a, chosen)

    def fold_stochastic(self, at: slice, delta: Tensor, a: Tensor, factor: float, seed: int, step: int, layer: int) -> Tensor:
        return fold_stochastic(*self._layouts(at), delta, a, factor, seed, step, layer)

    def _layouts(self, at: slice) -> tuple[Tensor, Tensor | None, Tensor]:
        """Codes, their second layout and scale of weight rows, as views."""
        return self.codes[at], None if self.codes_t is None else self.codes_t[:, at], self.scale[at]


def new_rows(sizes: Sequence[int], rank: int, like: Tensor, simulate_fp8: bool) -> PackedWeight:
    """Empty rows for linears of `sizes` outputs on the device of `like`, one of their weights [O, I] in the working dtype.

    On a GPU `simulate_fp8` asks for FP8 rounding where its hardware would not give it. Linears whose sizes no FP8 GEMM takes are
    dequantized.
    """
    in_features = like.shape[1]
    if like.device.type == "cpu":
        return EmulatedWeight(sizes, in_features, rank, like, simulate_fp8)
    fits = sum(sizes) % ALIGNMENT == 0 and in_features % ALIGNMENT == 0
    return Fp8Weight(sizes, in_features, rank, like.device, fp8=fits and (simulate_fp8 or has_fp8_gemm(like.device)))
