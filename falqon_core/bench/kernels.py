"""Every operator that has a GPU kernel, at the shapes of one 7B layer and the published step: time,
rate, and noise against its oracle.

`LINES` is the list; a test refuses an operator that is not in it. A line makes its arguments, says
what the results are as plain values (so that codes and scales compare as what they stand for), and
how many bytes must move at least: what is read and written once each, even where a kernel reads
twice. Products count floating-point operations instead. What is given up: one shape a line; other
widths, and the small kernels of torch between ours, are in the seconds of a step only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from falqon_core.bench.timing import median_seconds, what_went_wrong
from falqon_core.ops.dispatch import operator
from falqon_core.ops.half_gemm import gemm_codes, lower
from falqon_core.ops.quantize import dequantize, quantize_codes, quantize_rows
from falqon_core.ops.refresh import refresh_codes
from falqon_core.ops.rms_norm import rms_norm_backward, rms_norm_codes, rms_norm_forward
from falqon_core.ops.scaled_mm import scaled_mm
from falqon_core.ops.stochastic import fold_stochastic
from falqon_core.ops.swiglu import (
    swiglu_backward,
    swiglu_codes_backward,
    swiglu_codes_forward,
    swiglu_forward,
)
from falqon_core.ops.topk import fold_rows
from falqon_core.ops.transpose import transpose_codes

EPS = 1e-5
FASTER_WITH_HALF_SUMS = (
    "sm_89",
    "sm_120",
)  # elsewhere the tensor cores add in FP32 at the same rate (ops/half_gemm.py)


class Shapes(NamedTuple):
    tokens: int = 16 * 528
    hidden: int = 4096
    intermediate: int = 11008
    rank: int = 64
    update_rows: int = 10


class Draw:
    """Random inputs on one device, the same at every call with the same sizes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(
        self, *shape: int, deviation: float = 1.0, dtype: torch.dtype = torch.bfloat16
    ) -> Tensor:
        return (
            torch.randn(*shape, generator=self._generator, device=self.device)
            .mul_(deviation)
            .to(dtype)
        )

    def qdata(self, *shape: int) -> tuple[Tensor, Tensor]:
        """e4m3 codes and fp32 scales [R, 1] of normal numbers."""
        return quantize_codes.oracle(self.normal(*shape))


class Call(NamedTuple):
    """`moved`: bytes that must move, None for all tensors of arguments and results; `flops` for
    products, else 0.
    """

    arguments: tuple[Any, ...]
    moved: int | None = None
    flops: float = 0.0


# (arguments after the call, result) -> what is compared
Values = Callable[[tuple[Any, ...], Any], Sequence[Tensor]]


class Line(NamedTuple):
    name: str
    shape: str
    operator: "operator[..., Any]"
    call: Callable[[Shapes, Draw], Call]
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
    """`budget_seconds` for each; one that fails is named and the others go on."""
    for line in LINES:
        if line.architectures is not None and capability not in line.architectures:
            yield KernelResult(
                line.name, line.shape, f"not on {capability or device.type}: no faster there"
            )
            continue
        try:
            yield measure_kernel(line, shapes, device, budget_seconds)
        # a kernel that cannot be compiled or launched here is a result, not the end of the table
        except Exception as error:
            yield KernelResult(line.name, line.shape, what_went_wrong(error))


def measure_kernel(
    line: Line, shapes: Shapes, device: torch.device, budget_seconds: float
) -> KernelResult:
    kernel = line.operator.kernels["cuda"]
    call = line.call(shapes, Draw(device))
    expected = _values_of(line.operator.oracle, line, _copies(call.arguments))
    values = _values_of(kernel, line, _copies(call.arguments))
    noise = sqnr_db(values, expected)
    del expected, values
    moved = (
        call.moved
        if call.moved is not None
        else sum(x.nbytes for x in _tensors((call.arguments, kernel(*call.arguments))))
    )
    seconds = median_seconds(lambda: kernel(*call.arguments), device, budget_seconds)
    return KernelResult(line.name, line.shape, "measured", seconds, moved, call.flops, noise)


def sqnr_db(values: Iterable[Tensor], expected: Iterable[Tensor]) -> float | None:
    """Return the dB of the worst of the tensors; None when all are equal bit for bit."""
    noises = []
    for value, exact in zip(values, expected, strict=True):
        noise = torch.linalg.vector_norm(value.float() - exact.float(), dtype=torch.float64)
        if noise > 0:
            signal = torch.linalg.vector_norm(exact.float(), dtype=torch.float64)
            noises.append(float(20 * torch.log10(signal / noise)))
    return min(noises, default=None)


def _values_of(
    function: Callable[..., Any], line: Line, arguments: tuple[Any, ...]
) -> Sequence[Tensor]:
    return line.values(arguments, function(*arguments))


def _copies(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.clone() if isinstance(x, Tensor) else x for x in arguments)


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, tuple):
        for inner in nested:
            yield from _tensors(inner)


def _only(_: tuple[Any, ...], result: Tensor) -> Sequence[Tensor]:
    return [result]


def _all(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    return result


def _codes(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """(qdata, scale, anything else as it is)"""
    return [dequantize(result[0], result[1], torch.float32), *result[2:]]


def _codes_last(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    return [*result[:-2], dequantize(result[-2], result[-1], torch.float32)]


def _in_place(arguments: tuple[Any, ...], _: Tensor) -> Sequence[Tensor]:
    """Arguments (codes, their second layout, scale, ..), overwritten."""
    qdata, qdata_t, scale = arguments[:3]
    return [dequantize(qdata, scale, torch.float32), dequantize(qdata_t.t(), scale, torch.float32)]


def _gate_and_up(s: Shapes, draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw both as one GEMM leaves them: side by side."""
    gate, up = draw.normal(s.tokens, 2 * s.intermediate).chunk(2, -1)
    return gate, up


def _quantize(s: Shapes, draw: Draw) -> Call:
    return Call((draw.normal(s.tokens, s.hidden),))


def _quantize_gradient(s: Shapes, draw: Draw) -> Call:
    _, scale = draw.qdata(3 * s.hidden, 16)
    return Call((draw.normal(s.tokens, 3 * s.hidden), scale.squeeze(1)))


def _norm(s: Shapes, draw: Draw) -> Call:
    return Call((draw.normal(s.tokens, s.hidden), draw.normal(s.hidden), EPS))


def _norm_backward(s: Shapes, draw: Draw) -> Call:
    x = draw.normal(s.tokens, s.hidden)
    weight = draw.normal(s.hidden)
    return Call(
        (draw.normal(s.tokens, s.hidden), x, weight, rms_norm_forward.oracle(x, weight, EPS)[1])
    )


def _norm_codes(s: Shapes, draw: Draw) -> Call:
    return Call(
        (
            draw.normal(s.tokens, s.hidden),
            draw.normal(s.tokens, s.hidden),
            draw.normal(s.hidden),
            EPS,
        )
    )


def _swiglu(s: Shapes, draw: Draw) -> Call:
    return Call(_gate_and_up(s, draw))


def _swiglu_backward(s: Shapes, draw: Draw) -> Call:
    return Call((draw.normal(s.tokens, s.intermediate), *_gate_and_up(s, draw)))


def _swiglu_codes_backward(s: Shapes, draw: Draw) -> Call:
    """Count all of it: both gradients and their codes are results."""
    scales = (draw.qdata(s.intermediate, 16)[1].squeeze(1) for _ in range(2))
    return Call((draw.normal(s.tokens, s.intermediate), *_gate_and_up(s, draw), *scales))


def _weight(s: Shapes, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(base, qdata, qdata_t, scale, delta, a) of one linear [I, H]; the delta is of a training's
    size.
    """
    base = draw.normal(s.intermediate, s.hidden, deviation=s.hidden**-0.5)
    qdata, scale = quantize_codes.oracle(base)
    a = quantize_rows.oracle(draw.normal(s.rank, s.hidden, deviation=s.hidden**-0.5))[0]
    return (
        base,
        qdata,
        qdata.t().contiguous(),
        scale,
        draw.normal(s.intermediate, s.rank, deviation=0.01, dtype=torch.float32),
        a,
    )


def _refresh(s: Shapes, draw: Draw) -> Call:
    """Count the base and the old codes as read, both layouts as written."""
    base, qdata, qdata_t, scale, delta, a = _weight(s, draw)
    moved = base.nbytes + 2 * qdata.nbytes + qdata_t.nbytes + scale.nbytes + delta.nbytes + a.nbytes
    return Call((qdata, qdata_t, scale, base, delta, a, 1.0), moved)


def _stochastic(s: Shapes, draw: Draw) -> Call:
    """Codes and scales are read and written, the second layout written."""
    _, qdata, qdata_t, scale, delta, a = _weight(s, draw)
    moved = 2 * qdata.nbytes + qdata_t.nbytes + 2 * scale.nbytes + delta.nbytes + a.nbytes
    return Call((qdata, qdata_t, scale, delta, a, 1.0, 0, 0, 0), moved)


def _topk(s: Shapes, draw: Draw) -> Call:
    """Count the codes of the chosen rows, read and written in both layouts, and all of A, read."""
    _, qdata, qdata_t, scale, delta, a = _weight(s, draw)
    chosen = torch.arange(s.update_rows, device=draw.device) * (s.intermediate // s.update_rows)
    return Call(
        (qdata, qdata_t, scale, delta, a, chosen),
        s.update_rows * (3 * s.hidden + 4 * s.rank + 4) + a.nbytes,
    )


def _transpose(s: Shapes, draw: Draw) -> Call:
    return Call((draw.qdata(s.intermediate, s.hidden)[0],))


def _flops(s: Shapes) -> float:
    return 2.0 * s.tokens * s.hidden * s.intermediate


def _output(s: Shapes, draw: Draw) -> Call:
    return Call(
        (*draw.qdata(s.tokens, s.hidden), *draw.qdata(s.intermediate, s.hidden), True),
        flops=_flops(s),
    )


def _grad_input(s: Shapes, draw: Draw) -> Call:
    return Call(
        (*draw.qdata(s.tokens, s.intermediate), *draw.qdata(s.hidden, s.intermediate), False),
        flops=_flops(s),
    )


def _gemm(half: bool) -> Callable[[Shapes, Draw], Call]:
    def call(s: Shapes, draw: Draw) -> Call:
        (x, x_scale) = draw.qdata(s.tokens, s.hidden)
        (w, w_scale) = draw.qdata(s.intermediate, s.hidden)
        if half:
            x, x_scale = lower(x, x_scale)
        return Call((x, w, x_scale, w_scale.t().contiguous(), half), flops=_flops(s))

    return call


LINES = (
    Line("quantize", "[T, H]", quantize_codes, _quantize, _codes),
    Line("quantize, scaled gradient", "[T, 3H]", quantize_codes, _quantize_gradient, _codes),
    Line("rms_norm forward", "[T, H]", rms_norm_forward, _norm, _all),
    Line("rms_norm backward", "[T, H]", rms_norm_backward, _norm_backward, _only),
    Line("rms_norm + residual to codes", "[T, H]", rms_norm_codes, _norm_codes, _codes),
    Line("swiglu forward", "[T, I]", swiglu_forward, _swiglu, _only),
    Line("swiglu backward", "[T, I]", swiglu_backward, _swiglu_backward, _all),
    Line("swiglu to codes", "[T, I]", swiglu_codes_forward, _swiglu, _codes),
    Line(
        "swiglu backward to codes",
        "[T, 2I]",
        swiglu_codes_backward,
        _swiglu_codes_backward,
        _codes_last,
    ),
    Line("refresh (anchored)", "[I, H], rank r", refresh_codes, _refresh, _in_place),
    Line("fold (stochastic)", "[I, H], rank r", fold_stochastic, _stochastic, _in_place),
    Line("transpose codes", "[I, H]", transpose_codes, _transpose, _only),
    Line("fold (top-k rows)", "k of [I, H], rank r", fold_rows, _topk, _in_place),
    Line("scaled_mm, output", "[T, H] x [I, H]", scaled_mm, _output, _only),
    Line("scaled_mm, grad_input", "[T, I] x [H, I]", scaled_mm, _grad_input, _only),
    Line("own GEMM, FP32 sums", "[T, H] x [I, H]", gemm_codes, _gemm(half=False), _only),
    Line(
        "own GEMM, FP16 sums",
        "[T, H] x [I, H]",
        gemm_codes,
        _gemm(half=True),
        _only,
        FASTER_WITH_HALF_SUMS,
    ),
)
