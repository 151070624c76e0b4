import pytest
import torch
from torch import Tensor

from falqon_core.ops.grad_adapter import grad_a, grad_a_triton, grad_b, grad_b_triton
from falqon_core.ops.kernels import MAX_LINEARS
from falqon_core.ops.quantize import quantize_codes
from tests.falqon_core.ops.devices import KERNEL_DEVICE


def codes(num_tokens: int, num_columns: int) -> tuple[Tensor, Tensor]:
    """Tokens of very unlike magnitudes, one of zeros."""
    x = torch.randn(num_tokens, num_columns, device=KERNEL_DEVICE)
    x *= torch.logspace(-6, 3, num_tokens, device=KERNEL_DEVICE)[:, None]
    x[:1] = 0
    return quantize_codes.oracle(x)


def narrow(num_tokens: int, num_ranks: int) -> Tensor:
    """Columns of a wider product."""
    wide = torch.randn(num_tokens, num_ranks + 16, device=KERNEL_DEVICE).bfloat16()
    return wide[:, 8 : 8 + num_ranks]


def row_scales(num_rows: int) -> Tensor:
    return torch.randint(-12, -8, (num_rows,), device=KERNEL_DEVICE).float().exp2()


def assert_multiplies(ours: Tensor, oracle: Tensor, exact: Tensor) -> None:
    """In fp32, where the operands are exact: only the order of additions differs."""
    assert ours.dtype == torch.float32
    largest = float(exact.abs().max())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6 * largest)
    # on a CPU the oracle's product is rounded to bf16
    torch.testing.assert_close(ours, oracle, rtol=2**-8, atol=1e-5 * largest)


@pytest.mark.parametrize(
    ("num_tokens", "num_ranks", "num_columns"),
    [(1, 1, 1), (3, 7, 70), (65, 64, 64), (200, 80, 33)],
)
def test_the_gradient_of_a_is_of_what_the_codes_stand_for(
    num_tokens: int, num_ranks: int, num_columns: int
) -> None:
    torch.manual_seed(num_tokens * num_ranks)
    through_b = narrow(num_tokens, num_ranks)
    qdata, scale = codes(num_tokens, num_columns)
    exact = 0.5 * through_b.double().t() @ (qdata.double() * scale.double())
    arguments = through_b, qdata, scale, 0.5
    assert_multiplies(grad_a_triton(*arguments), grad_a.oracle(*arguments), exact)


@pytest.mark.parametrize(
    ("num_tokens", "rank", "sizes"),
    [
        (1, 1, (1,)),
        (3, 7, (70, 3)),
        (65, 64, (64, 128)),
        (130, 80, (33, 64, 100)),
    ],
)
def test_the_gradient_of_b_is_of_what_the_codes_stand_for(
    num_tokens: int, rank: int, sizes: tuple[int, ...]
) -> None:
    """Each linear's own part of o_a, whatever tiles its outputs end in."""
    torch.manual_seed(num_tokens * rank)
    o_a = narrow(num_tokens, len(sizes) * rank)
    qdata, scale = codes(num_tokens, sum(sizes))
    weight_scale = row_scales(sum(sizes))
    grads = qdata.double() * scale.double() / weight_scale.double()
    parts = zip(grads.split(sizes, 1), o_a.double().chunk(len(sizes), 1), strict=True)
    exact = 0.5 * torch.cat([grad.t() @ o for grad, o in parts])
    arguments = o_a, qdata, scale, weight_scale, sizes, 0.5
    assert_multiplies(grad_b_triton(*arguments), grad_b.oracle(*arguments), exact)


def test_the_oracle_computes_groups_that_are_too_large_for_the_kernel() -> None:
    sizes = (5,) * (MAX_LINEARS + 1)
    arguments = narrow(9, 2 * len(sizes)), *codes(9, sum(sizes)), row_scales(sum(sizes)), sizes, 0.5
    assert torch.equal(grad_b_triton(*arguments), grad_b.oracle(*arguments))


def test_the_kernels_give_the_same_bits_again() -> None:
    x = codes(150, 70)
    of_a = (narrow(150, 21), *x, 1.0)
    assert torch.equal(grad_a_triton(*of_a), grad_a_triton(*of_a))
    of_b = (narrow(150, 42), *x, row_scales(70), (30, 40), 1.0)
    assert torch.equal(grad_b_triton(*of_b), grad_b_triton(*of_b))
