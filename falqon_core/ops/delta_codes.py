"""The deltas of a group as codes, along the outputs: the rows that ride along in grad_input's GEMM.

dY B contracts over the outputs, as grad_input does, so B^T stands below W^T in that GEMM's second
operand (transpose.py). The GEMM reads dY times the scales of W's rows, so B is divided by them;
each row of B^T then has a scale of its own, which leaves through the columns of the product.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import (
    CVT_E4M3,
    MAX_LINEARS,
    Build,
    inverse_power_of_two,
    jit,
    power_of_two,
    power_of_two_exponent,
    tl,
    to_e4m3,
)
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.samples import Draw, SampleInput

BLOCK = 1024


@operator
def quantize_deltas(scale: Tensor, weight_scale: Tensor, *deltas: Tensor) -> Tensor:
    """Return [B_1^T | B_2^T | ..] / weight_scale as codes, float8_e4m3fn [r, sum O], of the deltas,
    fp32 [O_j, r], and weight_scale, fp32 [sum O], powers of two.

    The scales of the rows of B_1^T, B_2^T, .. are written to `scale`, fp32 [n r, 1].
    """
    inverses = weight_scale.split([len(delta) for delta in deltas])
    parts = [
        quantize_codes.oracle((delta / inverse[:, None]).t())
        for delta, inverse in zip(deltas, inverses, strict=True)
    ]
    scale.copy_(torch.cat([of_rows for _, of_rows in parts]))
    # torch.cat takes no e4m3, so the bytes are joined.
    joined = torch.cat([codes.view(torch.uint8) for codes, _ in parts], 1)
    return joined.view(torch.float8_e4m3fn)


@quantize_deltas.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    for sizes in ((48,), (80, 16, 32)):
        deltas = [draw.normal(size, 7, deviation=0.01, dtype=torch.float32) for size in sizes]
        arguments = draw.scales(7 * len(sizes), 1), draw.scales(sum(sizes)), *deltas
        yield SampleInput(arguments, delta_values)


def delta_values(arguments: tuple[Tensor, ...], qdata: Tensor) -> Sequence[Tensor]:
    """Compare B_j^T / weight_scale of each linear."""
    scale, _, *deltas = arguments
    parts = qdata.float().split([len(delta) for delta in deltas], 1)
    scales = scale.chunk(len(deltas))
    return [codes * of_rows for codes, of_rows in zip(parts, scales, strict=True)]


@jit
def quantize_deltas_kernel(
    first,
    second,
    third,
    weight_scale,
    qdata,
    scale,
    first_end,
    second_end,
    num_outputs,
    rank,
    BLOCK: tl.constexpr,
):
    """Quantize one column of one delta a program; the linears' outputs end at `first_end`,
    `second_end` and `num_outputs`.
    """
    index = tl.program_id(1)
    column = tl.program_id(0)
    delta = first
    begin = 0
    end = first_end
    if index == 1:
        delta = second
        begin = first_end
        end = second_end
    if index == 2:
        delta = third
        begin = second_end
        end = num_outputs
    rows = tl.arange(0, BLOCK)
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(begin, end, BLOCK):
        row = start + rows
        value = tl.load(delta + (row - begin) * rank + column, mask=row < end, other=0.0)
        of_row = tl.load(weight_scale + row, mask=row < end, other=1.0)
        largest = tl.maximum(largest, tl.abs(value * inverse_power_of_two(of_row)))
    exponent = power_of_two_exponent(tl.max(largest))
    tl.store(scale + index * rank + column, power_of_two(exponent))
    inverse = power_of_two(-exponent)
    for start in range(begin, end, BLOCK):
        row = start + rows
        value = tl.load(delta + (row - begin) * rank + column, mask=row < end, other=0.0)
        of_row = tl.load(weight_scale + row, mask=row < end, other=1.0)
        codes = to_e4m3(value * inverse_power_of_two(of_row) * inverse)
        tl.store(qdata + column * num_outputs + row, codes, mask=row < end)


def quantize_deltas_triton(scale: Tensor, weight_scale: Tensor, *deltas: Tensor) -> Tensor:
    """Launch the kernel, one program a column of each delta; all tensors are contiguous. The oracle
    computes groups of more than three linears.
    """
    if len(deltas) > MAX_LINEARS:
        return quantize_deltas.oracle(scale, weight_scale, *deltas)
    rank = deltas[0].shape[1]
    ends = [sum(len(delta) for delta in deltas[: index + 1]) for index in range(len(deltas))]
    qdata = torch.empty(rank, ends[-1], dtype=torch.float8_e4m3fn, device=scale.device)
    # Linears that are not there have no program: their deltas are any tensor, their ends the last.
    missing = MAX_LINEARS - len(deltas)
    quantize_deltas_kernel[(rank, len(deltas))](
        *deltas,
        *deltas[:1] * missing,
        weight_scale,
        qdata,
        scale,
        *(*ends, *ends[-1:] * missing),
        rank,
        BLOCK=BLOCK,
    )
    return qdata


quantize_deltas.kernels["cuda"] = quantize_deltas_triton

_TYPES = dict.fromkeys(("first", "second", "third", "weight_scale"), "*fp32")
_TYPES |= {"qdata": "*fp8e4nv", "scale": "*fp32"}
_TYPES |= dict.fromkeys(("first_end", "second_end", "num_outputs", "rank"), "i32")
BUILDS = [
    Build(
        quantize_deltas_kernel,
        _TYPES | {"BLOCK": "constexpr"},
        {"BLOCK": BLOCK},
        ptx=(CVT_E4M3,),
    )
]
