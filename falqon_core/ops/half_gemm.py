"""FP8 x FP8 -> bf16 matrix product in Triton: with FP16 partial sums for consumer cards, or with
FP32 sums where torch's is refused.

`gemm_codes(x, w, scale_x, scale_w) = (x . w^T) * scale_x * scale_w`. On sm_89 and sm_120 consumer
cards the tensor cores multiply e4m3 with FP16 sums at twice the rate of FP32 sums; `half=True` asks
for that. Triton emits it: `mma.sync ... f16.e4m3.e4m3.f16` on both. On sm_90 and sm_100 it compiles
too and buys nothing there. `half=False` is the plain product, the fallback for `scaled_mm`.

What is given up with `half`: every sum over `BLOCK_K` = 64 products is kept in FP16, 11 significant
bits, and only these partial sums are added up in FP32. That is noise of about 2^-11 of a partial
sum, far below the noise of e4m3 itself (4 significant bits).

FP16 ends at 65504 and one product of codes may be 448 * 448 = 200704, so x must come lowered:
`lower` divides its codes by 256 and multiplies the scale by it. Then a partial sum is at most 64 *
448 * 1.75 = 50176 whatever the data, and nothing can overflow. The weight's codes stay as they are,
they are the checkpoint. What is given up by lowering: a row of x then has the spacing of
subnormals, amax / 896, for all that is smaller than amax / 112, which costs nothing on Gaussian
rows and matters on rows whose amax exceeds a hundred times their usual magnitude. Hence opt-in. A
caller that forgets to lower gets infinities, not slightly wrong numbers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from falqon_core.ops.dispatch import operator
from falqon_core.ops.kernels import Build, jit, round_to, tl
from falqon_core.ops.samples import Draw, SampleInput, result_alone

CODE_DIVISOR = 256.0
# One tile serves all shapes: no register spills on any architecture, 64 KiB of shared memory at
# most.
BLOCK_M = 128
BLOCK_N = 128
BLOCK_K = 64
NUM_WARPS = 8
NUM_STAGES = 4


def lower(qdata: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes e4m3 [T, I] and scale fp32 [T, 1] of the same values with |codes| <= 1.75, as
    `half` needs them; codes that become subnormal are rounded.
    """
    return (qdata.to(torch.bfloat16) / CODE_DIVISOR).to(qdata.dtype), scale * CODE_DIVISOR


@operator
def gemm_codes(
    x: Tensor, w: Tensor, scale_x: Tensor, scale_w: Tensor, half: bool = False
) -> Tensor:
    """Return x . w^T, scaled, bf16 [T, O]; x e4m3 [T, K], w e4m3 [O, K], both contiguous; scale_x
    fp32 [T, 1], scale_w fp32 [1, O].

    With `half`, |x| <= 1.75 (see `lower`). grad_input is the same product with the transposed codes
    as w.
    """
    if half:
        blocks = zip(x.float().split(BLOCK_K, 1), w.float().split(BLOCK_K, 1), strict=True)
        total = torch.zeros(x.shape[0], w.shape[0], device=x.device)
        for x_block, w_block in blocks:
            # One sum of 64 products in FP16, added up in FP32.
            total += (x_block @ w_block.t()).half()
    else:
        total = x.float() @ w.float().t()
    return (total * scale_x * scale_w).bfloat16()


@gemm_codes.tried_on
def _samples(draw: Draw) -> Iterator[SampleInput]:
    x, w = draw.codes(9, 96), draw.codes(48, 96)
    scale_x, scale_w = draw.scales(9, 1), draw.scales(1, 48)
    yield SampleInput((x, w, scale_x, scale_w), result_alone)
    lowered, scale_lowered = lower(x, scale_x)
    yield SampleInput((lowered, w, scale_lowered, scale_w, True), result_alone)


@jit
def gemm_kernel(
    x,
    w,
    scale_x,
    scale_w,
    y,
    num_tokens,
    num_outputs,
    num_inputs,
    HALF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute one tile of y a program; tiles go in groups of eight rows of tiles, so that
    neighbours in time share w in the cache.
    """
    pid_m, pid_n = tl.swizzle2d(
        tl.program_id(0), tl.program_id(1), tl.num_programs(0), tl.num_programs(1), 8
    )
    token = pid_m.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    output = pid_n.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, num_inputs, BLOCK_K):
        inside = start + k < num_inputs
        left = tl.load(
            x + token[:, None] * num_inputs + (start + k)[None, :],
            mask=(token < num_tokens)[:, None] & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            w + output[None, :] * num_inputs + (start + k)[:, None],
            mask=(output < num_outputs)[None, :] & inside[:, None],
            other=0.0,
        )
        # In FP32 the compiler folds the addition into the product, except on sm_90, whose FP8 sums
        # are short: there it stays outside.
        total += tl.dot(left, right, out_dtype=tl.float16 if HALF else tl.float32).to(tl.float32)
    # [BM, BN] fp32 times the scale of each token and of each output: powers of two, exact.
    total *= tl.load(scale_x + token, mask=token < num_tokens, other=0.0)[:, None]
    total *= tl.load(scale_w + output, mask=output < num_outputs, other=0.0)[None, :]
    inside = (token < num_tokens)[:, None] & (output < num_outputs)[None, :]
    tl.store(
        y + token[:, None] * num_outputs + output[None, :],
        round_to(total, tl.bfloat16),
        mask=inside,
    )


def gemm_codes_triton(
    x: Tensor, w: Tensor, scale_x: Tensor, scale_w: Tensor, half: bool = False
) -> Tensor:
    """Launch the kernel over tiles of y [T, O]."""
    (num_tokens, num_inputs) = x.shape
    num_outputs = w.shape[0]
    y = torch.empty(num_tokens, num_outputs, dtype=torch.bfloat16, device=x.device)
    gemm_kernel[(-(-num_tokens // BLOCK_M), -(-num_outputs // BLOCK_N))](
        x,
        w,
        scale_x,
        scale_w,
        y,
        num_tokens,
        num_outputs,
        num_inputs,
        HALF=half,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )
    return y


gemm_codes.kernels["cuda"] = gemm_codes_triton

_SIGNATURE = {
    "x": "*fp8e4nv",
    "w": "*fp8e4nv",
    "scale_x": "*fp32",
    "scale_w": "*fp32",
    "y": "*bf16",
}
_SIGNATURE |= {"num_tokens": "i32", "num_outputs": "i32", "num_inputs": "i32"}
_TILE = {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}
BUILDS = [
    Build(
        gemm_kernel,
        _SIGNATURE | dict.fromkeys(("HALF", *_TILE), "constexpr"),
        {"HALF": half, **_TILE},
        ptx_of=dict.fromkeys(
            (89, 120), (f"mma.sync.aligned.m16n8k32.row.col.{kind}.e4m3.e4m3.{kind}",)
        )
        | dict.fromkeys((100, 103, 110), ("tcgen05.mma.cta_group::1.kind::f8f6f4",))
        | {
            90: (f"wgmma.mma_async.sync.aligned.m64n128k32.{kind}.e4m3.e4m3",),
            # Triton 3.6 and 3.7 widen codes to fp16 there, exactly.
            121: (f"mma.sync.aligned.m16n8k16.row.col.{kind}.f16.f16.{kind}",),
        },
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )
    for half, kind in ((True, "f16"), (False, "f32"))
]
