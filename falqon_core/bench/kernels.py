"""Every operator that has a GPU kernel, at the shapes of one 7B layer and the published step: time,
rate, and noise against its oracle.

`LINES` is the list; a test refuses an operator that is not in it. A line makes its arguments, says
what the results are as plain values (so that codes and scales compare as what they stand for), and
how many bytes must move at least: what is read and written once each, even where a kernel reads
twice. Products count floating-point operations instead. What is given up: one shape a line; other
widths, and the small kernels of torch between ours, are in the seconds of a step only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from falqon_core.bench.timing import median_seconds, what_went_wrong
from falqon_core.ops import samples
from falqon_core.ops.delta_codes import delta_values, quantize_deltas
from falqon_core.ops.dispatch import operator
from falqon_core.ops.grad_adapter import grad_a, grad_b
from falqon_core.ops.grouped_product import grouped_product
from falqon_core.ops.half_gemm import gemm_codes, lower
from falqon_core.ops.quantize import quantize_codes, quantize_int8, quantize_rows, round_rows
from falqon_core.ops.refresh import refresh_codes
from falqon_core.ops.rms_norm import rms_norm_codes, rms_norm_forward
from falqon_core.ops.rms_norm_backward import rms_norm_backward, rms_norm_backward_codes
from falqon_core.ops.rope_qkv import rotate_qkv_
from falqon_core.ops.rope_qkv_backward import unrotate_qkv_codes
from falqon_core.ops.samples import (
    SampleInput,
    Values,
    all_results,
    codes_first,
    codes_in_place,
    codes_last,
    result_alone,
    rounded_in_place,
    sqnr_db,
)
from falqon_core.ops.scaled_mm import scaled_mm
from falqon_core.ops.softmax_losses import losses_and_gradients, softmax_losses
from falqon_core.ops.stochastic import fold_stochastic
from falqon_core.ops.swiglu import swiglu_backward, swiglu_forward
from falqon_core.ops.swiglu_codes import (
    forward_values,
    swiglu_codes_backward,
    swiglu_codes_forward,
)
from falqon_core.ops.topk import fold_rows
from falqon_core.ops.transpose import transpose_codes

EPS = 1e-5
# Elsewhere the tensor cores add in FP32 at the same rate (ops/half_gemm.py).
FASTER_WITH_HALF_SUMS = ("sm_89", "sm_120")


class Shapes(NamedTuple):
    """Sizes of a 7B model's operators, by default those of the published training."""

    tokens: int = 16 * 528
    hidden: int = 4096
    intermediate: int = 11008
    rank: int = 64
    update_rows: int = 10
    head_dim: int = 128
    vocabulary: int = 32000


class KernelDraw(samples.Draw):
    """Random operands of kernels."""

    def qdata(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Return e4m3 codes and fp32 scales [R, 1] of normal numbers."""
        return quantize_codes.oracle(self.normal(*shape))


@dataclass(frozen=True)
class KernelCall:
    """A call of an operator. `moved`: bytes that must move, None for all tensors of arguments and
    results; `flops` for products, else 0.
    """

    arguments: tuple[Any, ...]
    moved: int | None = None
    flops: float = 0.0


@dataclass(frozen=True)
class KernelLine:
    """One line of the table: an operator with the call that is timed."""

    name: str
    shape: str
    operator: "operator[..., Any]"
    call: Callable[[Shapes, KernelDraw], KernelCall]
    values: Values
    architectures: tuple[str, ...] | None = None  # None: all


@dataclass(frozen=True)
class KernelResult:
    """`sqnr_db` is None when kernel and oracle agree in every bit; `status` is "measured", or why
    there are no figures.
    """

    name: str
    shape: str
    status: str
    seconds: float = 0.0
    moved: int = 0
    flops: float = 0.0
    sqnr_db: float | None = None


def measure_kernels(
    shapes: Shapes, device: torch.device, capability: str | None, budget_seconds: float
) -> Iterator[KernelResult]:
    """Yield every line's result, timed for `budget_seconds` each; a failure is a result as well."""
    for line in LINES:
        if line.architectures is not None and capability not in line.architectures:
            yield KernelResult(
                line.name, line.shape, f"not on {capability or device.type}: no faster there"
            )
            continue
        try:
            yield measure_kernel(line, shapes, device, budget_seconds)
        # A kernel that cannot be compiled or launched here is a result, not the end of the table.
        except Exception as error:
            yield KernelResult(line.name, line.shape, what_went_wrong(error))


def measure_kernel(
    line: KernelLine, shapes: Shapes, device: torch.device, budget_seconds: float
) -> KernelResult:
    """Compare a kernel with its oracle and time both it and the bytes and operations it needs."""
    kernel = line.operator.kernels["cuda"]
    call = line.call(shapes, KernelDraw(device))
    sample = SampleInput(call.arguments, line.values)
    noise = sqnr_db(sample.values_of(kernel), sample.values_of(line.operator.oracle))
    moved = call.moved
    if moved is None:
        moved = sum(x.nbytes for x in _tensors((call.arguments, kernel(*call.arguments))))
    seconds = median_seconds(lambda: kernel(*call.arguments), device, budget_seconds)
    return KernelResult(line.name, line.shape, "measured", seconds, moved, call.flops, noise)


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, tuple):
        for inner in nested:
            yield from _tensors(inner)


def _quantize(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall((draw.normal(s.tokens, s.hidden),))


def _grad_a(s: Shapes, draw: KernelDraw) -> KernelCall:
    through_b = draw.normal(s.tokens, 3 * s.rank)
    flops = 2.0 * s.tokens * 3 * s.rank * s.hidden
    return KernelCall((through_b, *draw.qdata(s.tokens, s.hidden), 1.0), flops=flops)


def _grad_b(s: Shapes, draw: KernelDraw) -> KernelCall:
    sizes = (s.hidden,) * 3
    o_a = draw.normal(s.tokens, 3 * s.rank)
    scale = draw.qdata(3 * s.hidden, 16)[1].squeeze(1)
    flops = 2.0 * s.tokens * s.rank * 3 * s.hidden
    arguments = o_a, *draw.qdata(s.tokens, 3 * s.hidden), scale, sizes, 1.0
    return KernelCall(arguments, flops=flops)


def _deltas(s: Shapes, draw: KernelDraw) -> list[Tensor]:
    return [draw.normal(s.hidden, s.rank, deviation=0.01, dtype=torch.float32) for _ in range(3)]


def _quantize_deltas(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count the deltas of q, k and v as read and their codes as written."""
    scale = torch.ones(3 * s.rank, 1, device=draw.device)
    weight_scale = draw.qdata(3 * s.hidden, 16)[1].squeeze(1)
    return KernelCall((scale, weight_scale, *_deltas(s, draw)), 5 * 3 * s.hidden * s.rank)


def _round(s: Shapes, draw: KernelDraw) -> KernelCall:
    x = draw.normal(s.rank, s.hidden, dtype=torch.float32)
    return KernelCall((*draw.qdata(s.rank, s.hidden), draw.normal(s.rank, s.hidden), x))


def _quantize_gradient(s: Shapes, draw: KernelDraw) -> KernelCall:
    _, scale = draw.qdata(3 * s.hidden, 16)
    return KernelCall((draw.normal(s.tokens, 3 * s.hidden), scale.squeeze(1)))


def _norm(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall((draw.normal(s.tokens, s.hidden), draw.normal(s.hidden), EPS))


def _norm_backward(s: Shapes, draw: KernelDraw) -> KernelCall:
    x = draw.normal(s.tokens, s.hidden)
    weight = draw.normal(s.hidden)
    return KernelCall(
        (draw.normal(s.tokens, s.hidden), x, weight, rms_norm_forward.oracle(x, weight, EPS)[1])
    )


def _norm_backward_codes(s: Shapes, draw: KernelDraw) -> KernelCall:
    arguments = _norm_backward(s, draw).arguments
    scale = draw.qdata(s.hidden, 16)[1].squeeze(1)
    return KernelCall((*arguments, draw.normal(s.tokens, s.hidden), scale))


def _norm_codes(s: Shapes, draw: KernelDraw) -> KernelCall:
    x, residual = (draw.normal(s.tokens, s.hidden) for _ in range(2))
    return KernelCall((x, residual, draw.normal(s.hidden), EPS))


def _rotate(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count q and k, read and written; v and x A^T lie beside them."""
    product = draw.normal(s.tokens, 3 * s.hidden + 3 * s.rank)
    tables = (draw.normal(s.tokens, s.head_dim) for _ in range(2))
    moved = 8 * s.tokens * s.hidden + 4 * s.tokens * s.head_dim
    return KernelCall((product, None, *tables, (s.hidden,) * 3), moved)


def _unrotate(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count all of it: the codes of the gradients are results."""
    grads = (draw.normal(s.tokens, s.hidden) for _ in range(3))
    tables = (draw.normal(s.tokens, s.head_dim) for _ in range(2))
    return KernelCall((*grads, *tables, draw.qdata(3 * s.hidden, 16)[1].squeeze(1)))


def _swiglu(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall(draw.halves(s.tokens, s.intermediate))


def _swiglu_backward(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall(
        (draw.normal(s.tokens, s.intermediate), *draw.halves(s.tokens, s.intermediate))
    )


def _swiglu_codes_backward(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count all of it: the codes of both gradients are results."""
    halves = draw.normal(s.tokens, 2 * s.intermediate).to(torch.float8_e4m3fn)
    scales = torch.full((s.tokens, 2), 2.0**-3, device=draw.device)
    weight_scale = draw.qdata(2 * s.intermediate, 16)[1].squeeze(1)
    return KernelCall((draw.normal(s.tokens, s.intermediate), halves, scales, weight_scale))


def _losses(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count logits that a chunk may have, read and written over."""
    logits = draw.normal(max(1, s.tokens // 4), s.vocabulary, deviation=2.0)
    labels = torch.arange(len(logits), device=draw.device) % s.vocabulary
    return KernelCall((logits, labels, True), 2 * logits.nbytes)


def _weight(s: Shapes, draw: KernelDraw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (base, qdata, scale, delta, a) of a linear [I, H]; the delta as a training's."""
    base = draw.normal(s.intermediate, s.hidden, deviation=s.hidden**-0.5)
    qdata, scale = quantize_codes.oracle(base)
    a = quantize_rows.oracle(draw.normal(s.rank, s.hidden, deviation=s.hidden**-0.5))[0]
    delta = draw.normal(s.intermediate, s.rank, deviation=0.01, dtype=torch.float32)
    return base, qdata, scale, delta, a


def _refresh(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count the base, in eight bits, and the old codes as read, the codes as written."""
    base, qdata, scale, delta, a = _weight(s, draw)
    values, base_scale = quantize_int8(base)
    moved = values.nbytes + 2 * qdata.nbytes + 2 * scale.nbytes + delta.nbytes + a.nbytes
    return KernelCall((qdata, scale, values, base_scale, delta, a, 1.0), moved)


def _stochastic(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Codes and scales are read and written."""
    _, qdata, scale, delta, a = _weight(s, draw)
    moved = 2 * qdata.nbytes + 2 * scale.nbytes + delta.nbytes + a.nbytes
    return KernelCall((qdata, scale, delta, a, 1.0, 0, 0, 0), moved)


def _topk(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count the codes of the chosen rows, read and written, and all of A, read."""
    _, qdata, scale, delta, a = _weight(s, draw)
    chosen = torch.arange(s.update_rows, device=draw.device) * (s.intermediate // s.update_rows)
    return KernelCall(
        (qdata, scale, delta, a, chosen), s.update_rows * (2 * s.hidden + 4 * s.rank + 4) + a.nbytes
    )


def _transpose(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall((draw.qdata(s.intermediate, s.hidden)[0],))


def _transpose_with_deltas(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Count what is appended as written, zeros too."""
    qdata, deltas = draw.qdata(3 * s.hidden, s.hidden)[0], draw.qdata(s.rank, 3 * s.hidden)[0]
    num_appended = 3 * s.rank
    moved = 2 * qdata.nbytes + deltas.nbytes + num_appended * len(qdata)
    return KernelCall((qdata, deltas, (s.hidden,) * 3, num_appended), moved)


def _flops(s: Shapes) -> float:
    return 2.0 * s.tokens * s.hidden * s.intermediate


def _output(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall(
        (*draw.qdata(s.tokens, s.hidden), *draw.qdata(s.intermediate, s.hidden), True),
        flops=_flops(s),
    )


def _grad_input(s: Shapes, draw: KernelDraw) -> KernelCall:
    return KernelCall(
        (*draw.qdata(s.tokens, s.intermediate), *draw.qdata(s.hidden, s.intermediate), False),
        flops=_flops(s),
    )


def _grouped(s: Shapes, draw: KernelDraw) -> KernelCall:
    """Eight experts of a quarter of the width, each token at one of them."""
    experts, width = 8, s.intermediate // 4
    codes, scale = draw.qdata(experts * width, s.hidden)
    ends = torch.arange(1, experts + 1, dtype=torch.int32, device=draw.device)
    arguments = (
        draw.normal(s.tokens, s.hidden),
        codes.unflatten(0, (experts, width)),
        scale.unflatten(0, (experts, width)),
        ends * s.tokens // experts,
    )
    return KernelCall(arguments, flops=2.0 * s.tokens * s.hidden * width)


def _gemm(half: bool) -> Callable[[Shapes, KernelDraw], KernelCall]:
    def call(s: Shapes, draw: KernelDraw) -> KernelCall:
        (x, x_scale) = draw.qdata(s.tokens, s.hidden)
        (w, w_scale) = draw.qdata(s.intermediate, s.hidden)
        if half:
            x, x_scale = lower(x, x_scale)
        return KernelCall((x, w, x_scale, w_scale.t().contiguous(), half), flops=_flops(s))

    return call


LINES = (
    KernelLine("quantize", "[T, H]", quantize_codes, _quantize, codes_first),
    KernelLine(
        "quantize, scaled gradient", "[T, 3H]", quantize_codes, _quantize_gradient, codes_first
    ),
    KernelLine("round A in place", "[r, H]", round_rows, _round, rounded_in_place),
    KernelLine("rms_norm forward", "[T, H]", rms_norm_forward, _norm, all_results),
    KernelLine("rms_norm backward", "[T, H]", rms_norm_backward, _norm_backward, result_alone),
    KernelLine(
        "rms_norm backward + residual to codes",
        "[T, H]",
        rms_norm_backward_codes,
        _norm_backward_codes,
        codes_last,
    ),
    KernelLine("rms_norm + residual to codes", "[T, H]", rms_norm_codes, _norm_codes, codes_first),
    KernelLine("rotate q and k", "[T, 2H] of [T, 3H]", rotate_qkv_, _rotate, result_alone),
    KernelLine("rotate back to codes", "[T, 3H]", unrotate_qkv_codes, _unrotate, codes_first),
    KernelLine("swiglu forward", "[T, I]", swiglu_forward, _swiglu, result_alone),
    KernelLine("swiglu backward", "[T, I]", swiglu_backward, _swiglu_backward, all_results),
    KernelLine("swiglu to codes", "[T, I]", swiglu_codes_forward, _swiglu, forward_values),
    KernelLine(
        "swiglu backward to codes",
        "[T, 2I]",
        swiglu_codes_backward,
        _swiglu_codes_backward,
        codes_first,
    ),
    KernelLine(
        "loss and its gradient", "[T / 4, V]", softmax_losses, _losses, losses_and_gradients
    ),
    KernelLine("refresh (anchored)", "[I, H], rank r", refresh_codes, _refresh, codes_in_place),
    KernelLine("fold (stochastic)", "[I, H], rank r", fold_stochastic, _stochastic, codes_in_place),
    KernelLine("transpose codes", "[I, H]", transpose_codes, _transpose, result_alone),
    KernelLine("fold (top-k rows)", "k of [I, H], rank r", fold_rows, _topk, codes_in_place),
    KernelLine("scaled_mm, output", "[T, H] x [I, H]", scaled_mm, _output, result_alone),
    KernelLine("scaled_mm, grad_input", "[T, I] x [H, I]", scaled_mm, _grad_input, result_alone),
    KernelLine(
        "transpose codes, B below",
        "[3H, H + 3r]",
        transpose_codes,
        _transpose_with_deltas,
        result_alone,
    ),
    KernelLine(
        "B along the outputs to codes", "[r, 3H]", quantize_deltas, _quantize_deltas, delta_values
    ),
    KernelLine("gradient of A from codes", "[3r, T] x [T, H]", grad_a, _grad_a, result_alone),
    KernelLine("gradient of B from codes", "3 [H, T] x [T, r]", grad_b, _grad_b, result_alone),
    KernelLine(
        "experts, grouped product",
        "[T, H] x 8 x [I / 4, H]",
        grouped_product,
        _grouped,
        result_alone,
    ),
    KernelLine(
        "own GEMM, FP32 sums", "[T, H] x [I, H]", gemm_codes, _gemm(half=False), result_alone
    ),
    KernelLine(
        "own GEMM, FP16 sums",
        "[T, H] x [I, H]",
        gemm_codes,
        _gemm(half=True),
        result_alone,
        FASTER_WITH_HALF_SUMS,
    ),
)
