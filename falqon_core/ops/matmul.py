"""Products of bf16 matrices that are fast on CPUs without bf16 instructions as well.

torch multiplies bf16 on an x86 CPU without AVX512_BF16 several times slower than fp32. There
operands are widened to fp32, which is exact, and the product is rounded to bf16 once: 54 instead of
13 GFLOP/s a thread at 512 x 576 x 1536 with the libraries held to AVX2. So are the adapters'
products: a step of LoRA took 30.6 s with theirs left to torch, and 7.6 s (SmolLM2, two threads of
an AVX2 CPU). Both operands are widened in blocks, so that no second copy of a weight is held and no
temporary is too large for the allocator to use again. A single row, as in each step of a
generation, is left to torch: it reads such a weight once, in 0.8 ms where widening one of 2048 x
2048 takes 1.9 ms (one thread). On every other machine these are torch's own products, bit for bit.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn

# Blocks of 32 MiB and more come from the kernel again at each allocation (glibc).
BLOCK_BYTES = 24 * 2**20


def _lacks_bf16() -> bool:
    # Every CPU with AMX has AVX512_BF16 as well.
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return is_x86 and not torch.cpu._is_avx512_bf16_supported()


LACKS_BF16 = _lacks_bf16()


def is_widened(x: Tensor) -> bool:
    """Check whether products of `x` are computed in fp32 although it is bf16."""
    return LACKS_BF16 and x.dtype == torch.bfloat16 and x.device.type == "cpu"


def widen(x: Tensor) -> Tensor:
    """Return x in the dtype of its products: fp32 where they are widened, else x itself."""
    return x.float() if is_widened(x) else x


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a [.., M, K] . b [.., K, N] in the dtype of b; where it is widened, without autograd,
    and a may be `widen`ed already.
    """
    if not is_widened(b):
        return a @ b
    if _is_one_row(a, b):
        return a.to(b.dtype) @ b
    if b.dim() == 2 and b.stride(1) == 1 and 4 * b.numel() > BLOCK_BYTES:
        return _sum_of_products(a, b)
    product = b.new_empty(*a.shape[:-1], b.shape[-1])
    num_columns = _num_fitting(b[..., :1])
    for part, columns in zip(product.split(num_columns, -1), b.split(num_columns, -1), strict=True):
        wide = columns.float()
        # Both the copy of these rows of a and their product.
        num_rows = min(_num_fitting(a[..., :1, :]), _num_fitting(part[..., :1, :]))
        for rows, left in zip(part.split(num_rows, -2), a.split(num_rows, -2), strict=True):
            # fp32 product, rounded to bf16 once by the copy.
            rows.copy_(left.float() @ wide)
    return product


def _num_fitting(one: Tensor) -> int:
    """Return the number of tensors like this one whose fp32 copies fit into a block."""
    return max(1, BLOCK_BYTES // (4 * one.numel()))


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Multiply with blocks of the rows of b [K, N], which lie together where columns would not."""
    sums = torch.zeros(a.numel() // a.shape[-1], b.shape[1])
    num_rows = _num_fitting(b[:1])
    columns = a.reshape(-1, a.shape[-1]).split(num_rows, 1)
    for left, rows in zip(columns, b.split(num_rows), strict=True):
        sums.addmm_(left.float(), rows.float())
    return sums.to(b.dtype).view(*a.shape[:-1], -1)


def multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a [M, K] . b [K, N] into `out` [M, N], columns of a wider matrix, without autograd."""
    if a.device.type == "cpu":
        out.copy_(matmul(a, b))
    else:
        torch.mm(a, b, out=out)


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """Return a [M, K] . b [K, N] in fp32. A GPU rounds the sums to fp32 alone; elsewhere they are
    rounded to the operands' dtype first, as `matmul` does.
    """
    if a.device.type == "cpu":
        return matmul(a, b).float()
    return torch.mm(a, b, out_dtype=torch.float32)


def scale_in_place(grad: Tensor, scaling: float) -> Tensor:
    """Multiply in place, where that changes anything: a launch for each linear."""
    return grad if scaling == 1.0 else grad.mul_(scaling)


def _is_one_row(a: Tensor, b: Tensor) -> bool:
    """Check that `a` is one row and the columns of `b` [K, N] are contiguous, as those of a
    transposed weight [N, K] are.
    """
    return a.numel() == a.shape[-1] and b.dim() == 2 and b.stride(0) == 1


def add_product(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return y [M, N] + a [M, K] . b [K, N] in their dtype; differentiable in all three."""
    return y + trained_matmul(a, b) if is_widened(a) else torch.addmm(y, a, b)


def trained_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a [M, K] . b [K, N] as `matmul` does; differentiable in both."""
    if not is_widened(a):
        return a @ b
    product: Tensor = _WideProduct.apply(a, b)
    return product


class _WideProduct(torch.autograd.Function):
    """(a [M, K], b [K, N]) -> [M, N]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return matmul(a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return matmul(grad, b.t()), matmul(a.t(), grad)


class _FrozenLinear(torch.autograd.Function):
    """(x [.., I], weight [O, I], bias [O] or None) -> [.., O], differentiable in x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        y = matmul(x, weight.t())
        return y if bias is None else y + bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return matmul(grad, ctx.weight), None, None


class _WidenedLinear(nn.Linear):
    """x [.., I] -> [.., O], differentiable in x alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_widened(x):  # the weight has been copied to a GPU, which must not keep it
            return super().forward(x)
        product: Tensor = _FrozenLinear.apply(x, self.weight, self.bias)
        return product


def widen_linears(model: nn.Module) -> None:
    """Make the bf16 linears of a model with frozen weights multiply as `matmul` does."""
    for module in model.modules():
        if type(module) is nn.Linear and is_widened(module.weight):
            module.__class__ = _WidenedLinear
