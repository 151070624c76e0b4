"""Packed weights: the quantized rows of linears that read the same input, and the two GEMMs that
read them.

q, k and v (or gate and up, or one linear by itself) with O_1..O_n outputs, I inputs and rank r own
one matrix

    [W_1; W_2; ..; A_1; A_2; ..]   [sum O + n r, I], one fp32 scale [.., 1] a row,

so that forward is one GEMM for all outputs and all x A^T, and grad_input one GEMM with the
contiguous [W_1; W_2; ..]. A linear reads and updates its W and its A through `RowsView`s, which
know no neighbours.

Two storages, chosen by device once, when a model is converted:
  EmulatedWeight  CPU. The dequantized values in the working dtype (bf16 holds them exactly, see
                  ops/quantize.py); qdata is derived when a file is written. 2 bytes a weight,
                  because GEMMs on e4m3 are three times slower there. `simulate_fp8` rounds
                  activations and gradients as an FP8 GPU does.
  Fp8Weight       GPU. e4m3, 1 byte a weight. With FP8 GEMMs the W part is transposed again for each
                  grad_input, which contracts over the outputs (ops/transpose.py); without them
                  (`fp8=False`) qdata is dequantized to bf16 layer by layer and multiplied with
                  unrounded activations, which are kept in bf16: the same weights, the same
                  checkpoint, no speed.

Backward of FP8: a weight's scale lies on the contraction axis of grad_input, so it is folded into
the gradient first, `grad_input = t * (q . qdata)` with q, t = quantize(grad_output * scale)
(method-products.md). The gradients of A and B read those q and t as well. Where A trains, B^T lies
below the transposed W as W's A does below W forward, so that the same GEMM gives dy B. A packed
weight cannot move to another kind of device.

Rows are stored by `StoredRows` (stored_rows.py), of a sharded model in part.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from falqon_core.meld.block_quantizer import BlockQuantizer
from falqon_core.meld.block_rows import BlockRows
from falqon_core.meld.gradients import cat_or_view, grad_deltas, grads_through_deltas
from falqon_core.meld.row_shard import WHOLE, RowShard
from falqon_core.meld.rows_view import EmulatedRows, Fp8Rows, RowsView
from falqon_core.meld.stored_rows import StoredRows
from falqon_core.ops.delta_codes import quantize_deltas
from falqon_core.ops.grad_adapter import grad_a, grad_b
from falqon_core.ops.matmul import matmul, matmul_fp32, scale_in_place, widen
from falqon_core.ops.quantize import dequantize, quantize_codes, quantize_rows
from falqon_core.ops.scaled_mm import ALIGNMENT, choose_gemms, has_fp8_gemm, scaled_mm
from falqon_core.ops.transpose import transpose_codes

# Of x [T, I], None where it is not needed, and of all that trains: deltas, then masters of A.
Gradients = tuple[Tensor | None, list[Tensor | None]]


class PackedWeight(StoredRows):
    """The rows of a group with the products that read them."""

    trains_a: bool = False  # Set by its linears.
    quantizer: BlockQuantizer | None = None  # Of rows of W in blocks.
    rounds_activations: bool  # To e4m3, as a card does that serves the model.

    @abstractmethod
    def output(self, x: Tensor) -> Tensor:
        """Return x [T, I] . rows^T, at least sum O + n r columns, [y_1 | y_2 | .. | o_a_1 | o_a_2 |
        .. ].
        """

    @abstractmethod
    def output_and_input(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return `output` of x, and the tensors to keep of x for `input_of`."""

    @abstractmethod
    def input_of(self, kept: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return the x [T, I], in `dtype`, of which `output_and_input` returned `kept`."""

    @abstractmethod
    def grad_input(self, grad_output: Tensor) -> Tensor:
        """[T, sum O] -> [T, I]."""

    def gradients(
        self,
        grads: Sequence[Tensor],
        o_a: Tensor,
        kept: Sequence[Tensor],
        scaling: float,
        needed: Sequence[bool],
    ) -> Gradients:
        """Return the gradients of a group, from dy_j [T, O_j] of each linear, o_a [T, n r] and what
        forward `kept`: the deltas, fp32 [O_j, r], and the tensors of x, where A trains.

        The first of `needed` is that of x, the others are of the deltas.
        """
        # One GEMM for the group: [dy_1 | dy_2 | ..] [T, sum O] . [W_1; W_2; ..] -> [T, I].
        grad_x = self.grad_input(cat_or_view(grads)) if needed[0] else None
        of_deltas = grad_deltas(grads, o_a, scaling, needed[1 : 1 + len(grads)])
        return grad_x, of_deltas + self._grad_masters(grads, kept, scaling, o_a.dtype)

    def _grad_masters(
        self,
        grads: Sequence[Tensor],
        kept: Sequence[Tensor],
        scaling: float,
        dtype: torch.dtype,
    ) -> list[Tensor | None]:
        """Return the gradient of each master of A, fp32 [r, I], None where no A trains; `dtype` is
        the working one.
        """
        if not kept:
            return [None] * len(grads)
        deltas, of_x = kept[: len(grads)], kept[len(grads) :]
        through_b = grads_through_deltas(grads, deltas, dtype)
        x = self.input_of(of_x, dtype)
        # [n r, T] . [T, I] -> fp32 [n r, I], cut into one [r, I] for each linear.
        grad = scale_in_place(matmul_fp32(through_b.t(), x), scaling)
        return list(grad.chunk(len(grads), 0))

    @property
    def weight_scale(self) -> Tensor:
        """Return the scales of the rows of all W, fp32 [sum O]."""
        return self.scale[: self.num_outputs].squeeze(1)


class EmulatedWeight(PackedWeight):
    """The packed weight of a CPU: the dequantized values, 2 bytes a weight in bf16. With a
    `quantizer` the rows of W are in its blocks, on any device.
    """

    values: Tensor
    block_scale: Tensor
    rows_name = "values"

    def __init__(
        self,
        sizes: Sequence[int],
        in_features: int,
        rank: int,
        like: Tensor,
        simulate_fp8: bool,
        shard: RowShard = WHOLE,
        quantizer: BlockQuantizer | None = None,
    ) -> None:
        """`like` gives the working dtype and the device."""
        num_rows = sum(sizes) + len(sizes) * rank
        super().__init__(sizes, in_features, rank, num_rows, like.device, shard)
        self.rounds_activations = simulate_fp8
        self._store(like.new_zeros(self._num_stored(), in_features))
        self.quantizer = quantizer
        if quantizer is not None:
            # fp32 [sum O, I / block]; the scales of its rows of A are those of e4m3.
            scale = self.scale.new_ones(self.num_outputs, in_features // quantizer.block)
            self.register_buffer("block_scale", scale, persistent=False)

    def _view(self, rows: Tensor, at: slice) -> RowsView:
        # Rows behind those of W belong to an A.
        if self.quantizer is None or at.start >= self.num_outputs:
            return EmulatedRows(rows, self.scale[at])
        return BlockRows(rows, self.block_scale[at], self.quantizer)

    def output(self, x: Tensor) -> Tensor:
        """Multiply x [T, I] with the values in the working dtype."""
        output, _ = self.output_and_input(x)
        return output

    def output_and_input(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Keep x [T, I] as the GEMM reads it: torch's casts to e4m3 and back take longer here than
        the GEMM of A's gradient.
        """
        if self.rounds_activations:
            # The values stay in x's dtype, [T, I], on the e4m3 grid of each token's scale.
            x, _ = quantize_rows(x)
        return matmul(x, self.values.t()), (x,)

    def input_of(self, kept: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return the kept x [T, I] itself, cast."""
        (x,) = kept
        return x.to(dtype)

    def grad_input(self, grad_output: Tensor) -> Tensor:
        """Multiply the gradient [T, sum O] with W."""
        return matmul(grad_output, self.values[: self.num_outputs])

    def gradients(
        self,
        grads: Sequence[Tensor],
        o_a: Tensor,
        kept: Sequence[Tensor],
        scaling: float,
        needed: Sequence[bool],
    ) -> Gradients:
        """Compute them in the working dtype; with `simulate_fp8` from dy and B rounded as a GPU
        does it.
        """
        if not self.rounds_activations:
            # Three products read dy; where they widen it, once for all of them.
            grads = widen(cat_or_view(grads)).split(self.sizes, 1)
            return super().gradients(grads, o_a, kept, scaling, needed)
        # The scale of each row of W is folded into dy, that is rounded by token, and the scale is
        # taken out again: exact, since scales are powers of two.
        scale = self.weight_scale
        joined = cat_or_view(grads)
        rounded = (quantize_rows((joined * scale).to(joined.dtype))[0] / scale).to(joined.dtype)
        if kept:
            parts = zip(kept, scale.split(self.sizes), strict=False)
            deltas = [quantize_rows((b / s[:, None]).t())[0].t() * s[:, None] for b, s in parts]
            kept = [*deltas, *kept[len(deltas) :]]
        return super().gradients(rounded.split(self.sizes, 1), o_a, kept, scaling, needed)


class Fp8Weight(PackedWeight):
    """The packed weight of a GPU: e4m3, 1 byte a weight. Each A is kept dequantized in bf16 as
    well, because every refresh reads it.
    """

    qdata: Tensor
    column_scale: Tensor
    a_values: Tensor
    rows_name = "qdata"

    def __init__(
        self,
        sizes: Sequence[int],
        in_features: int,
        rank: int,
        device: torch.device,
        fp8: bool,
        shard: RowShard = WHOLE,
    ) -> None:
        """Hold the rows. With `fp8` sum O and I must be multiples of 16; rows of zeros fill up
        what the ranks leave open.
        """
        num_rows = sum(sizes) + len(sizes) * rank
        num_rows = -(-num_rows // ALIGNMENT) * ALIGNMENT
        super().__init__(sizes, in_features, rank, num_rows, device, shard)
        self.fp8 = fp8
        self.rounds_activations = fp8
        # [sum O + n r, I], its number of rows rounded up to a multiple of 16 for the GEMM.
        size = (self._num_stored(), in_features)
        self._store(torch.zeros(size, dtype=torch.float8_e4m3fn, device=device))
        # Scales of the columns of grad_input: 1, since the weight's own scales are in the gradient
        # by then, and behind them those of the deltas' codes, written in each backward.
        self.num_appended = len(self.scale) - self.num_outputs
        column_scale = torch.ones(in_features + self.num_appended, 1, device=device)
        self.register_buffer("column_scale", column_scale, persistent=False)
        a_values = self.scale.new_zeros(len(sizes) * rank, in_features, dtype=torch.bfloat16)
        self.register_buffer("a_values", a_values, persistent=False)

    def _view(self, rows: Tensor, at: slice) -> Fp8Rows:
        values = None
        # Rows behind those of W belong to an A.
        if at.start >= self.num_outputs:
            values = self.a_values[at.start - self.num_outputs : at.stop - self.num_outputs]
        return Fp8Rows(rows, self.scale[at], values)

    def output(self, x: Tensor) -> Tensor:
        """Multiply x [T, I] with the rows: quantized by token in FP8, or with dequantized rows."""
        if not self.fp8:
            if self.rounds_activations:
                x, _ = quantize_rows(x)
            # Without FP8 hardware a bf16 copy of this group's rows lives for one product.
            return x @ dequantize(self.qdata, self.scale, x.dtype).t()
        return self.output_of_quantized(*quantize_codes(x))

    def output_and_input(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Keep x as the GEMM reads it: e4m3 codes [T, I] with their scales, fp32 [T, 1], or without
        FP8 x itself, since codes would cost a pass in plain torch and an error in A's gradient.
        """
        if not self.fp8:
            return self.output(x), (x,)
        codes = quantize_codes(x)
        return self.output_of_quantized(*codes), codes

    def input_of(self, kept: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return x [T, I]; from codes with a relative error of at most 1/16 (normal values)."""
        if not self.fp8:
            (x,) = kept
            return x.to(dtype)
        codes, scale = kept
        return dequantize(codes, scale, dtype)

    def output_of_quantized(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return `output` of x that is quantized per token already: e4m3 [T, I], scale fp32 [T, 1].
        Only with `fp8`.
        """
        # Hopper's fast accumulation keeps about 14 bits: enough for outputs, not used for
        # gradients.
        return scaled_mm(x, scale, self.qdata, self.scale, fast_accumulation=True)

    def grad_input(self, grad_output: Tensor) -> Tensor:
        """Multiply grad_output [T, sum O] with the dequantized W, without FP8 alone: with it
        `gradients` multiplies codes.
        """
        assert not self.fp8, "grad_input of codes is a part of `gradients`"
        weight = self.qdata[: self.num_outputs]
        return grad_output @ dequantize(weight, self.weight_scale[:, None], grad_output.dtype)

    def gradients(
        self,
        grads: Sequence[Tensor],
        o_a: Tensor,
        kept: Sequence[Tensor],
        scaling: float,
        needed: Sequence[bool],
    ) -> Gradients:
        """Compute them from codes where there is FP8, the deltas' whether needed or not."""
        if not self.fp8:
            return super().gradients(grads, o_a, kept, scaling, needed)
        # dy * scale [sum O], by token: e4m3 [T, sum O] and fp32 [T, 1].
        codes = quantize_codes(cat_or_view(grads), self.weight_scale)
        return self.gradients_of_quantized(*codes, o_a, kept, scaling, needed[0])

    def gradients_of_quantized(
        self,
        qdata: Tensor,
        scale: Tensor,
        o_a: Tensor,
        kept: Sequence[Tensor],
        scaling: float,
        needs_input: bool,
    ) -> Gradients:
        """Return `gradients` of dy whose product with the weight's scales is quantized per token
        already: e4m3 [T, sum O], scale fp32 [T, 1]. Only with `fp8`.
        """
        num_linears = len(self.sizes)
        deltas, of_x = kept[:num_linears], kept[num_linears:]
        grad_x, through_b = self._grad_input_and_through(qdata, scale, deltas, needs_input)
        of_deltas = grad_b(o_a, qdata, scale, self.weight_scale, self.sizes, scaling)
        of_masters: list[Tensor | None] = [None] * num_linears
        if through_b is not None:
            codes_of_x, scale_of_x = of_x
            of_a = grad_a(through_b, codes_of_x, scale_of_x, scaling)
            of_masters = [*of_a.chunk(num_linears)]
        return grad_x, [*of_deltas.split(self.sizes), *of_masters]

    def _grad_input_and_through(
        self, qdata: Tensor, scale: Tensor, deltas: Sequence[Tensor], needs_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return grad_input [T, I], None where it is not needed, and dy_j B_j of each linear [T, n
        r], None where there are no deltas: columns of one product.
        """
        num_inputs = self.in_features if needs_input else 0
        num_ranks = len(deltas) * self.rank
        if num_inputs + num_ranks == 0:
            return None, None
        column_scale = self.column_scale[self.in_features - num_inputs :]
        # e4m3 [I + n r, sum O]: FP8 GEMMs want the contraction axis contiguous in both operands.
        weight = self.qdata[: self.num_outputs, :num_inputs]
        if not deltas:
            product = scaled_mm(qdata, scale, transpose_codes(weight), column_scale[:num_inputs])
            return product, None
        of_deltas = column_scale[num_inputs : num_inputs + num_ranks]
        codes = quantize_deltas(of_deltas, self.weight_scale, *deltas)
        weight = transpose_codes(weight, codes, self.sizes, self.num_appended)
        product = scaled_mm(qdata, scale, weight, column_scale)
        grad_x, through_b, _ = product.split(
            (num_inputs, num_ranks, self.num_appended - num_ranks), 1
        )
        return grad_x if needs_input else None, through_b


def choose_gemms_of(weight: PackedWeight, most_rows: int) -> None:
    """Choose the GEMMs of `output` and `grad_input` for passes of at most `most_rows` tokens, on a
    GPU with FP8.
    """
    if isinstance(weight, Fp8Weight) and weight.fp8 and weight.scale.is_cuda:
        device = weight.scale.device
        choose_gemms(device, len(weight.scale), weight.in_features, True, most_rows)
        num_columns = weight.in_features + (weight.num_appended if weight.trains_a else 0)
        choose_gemms(device, num_columns, weight.num_outputs, False, most_rows)


def new_packed_weight(
    sizes: Sequence[int],
    rank: int,
    like: Tensor,
    simulate_fp8: bool,
    shard: RowShard = WHOLE,
    quantizer: BlockQuantizer | None = None,
) -> PackedWeight:
    """Return an empty packed weight for linears of `sizes` outputs on the device of `like`, one of
    their weights [O, I] in the working dtype. Rows of W are e4m3, or in blocks of the `quantizer`.

    On a GPU `simulate_fp8` asks for FP8 rounding where its hardware would not give it. Linears
    whose sizes no FP8 GEMM takes are dequantized.
    """
    in_features = like.shape[1]
    if like.device.type == "cpu" or quantizer is not None:
        return EmulatedWeight(sizes, in_features, rank, like, simulate_fp8, shard, quantizer)
    fits = sum(sizes) % ALIGNMENT == 0 and in_features % ALIGNMENT == 0
    fp8 = fits and (simulate_fp8 or has_fp8_gemm(like.device))
    return Fp8Weight(sizes, in_features, rank, like.device, fp8, shard)
