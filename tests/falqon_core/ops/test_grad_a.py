import pytest
import torch
from torch import Tensor

from falqon_core.ops.grad_a import grad_a, grad_a_triton
from falqon_core.ops.quantize import quantize_codes
from tests.falqon_core.ops.devices import KERNEL_DEVICE


def operands(num_tokens: int, num_ranks: int, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(num_tokens * num_ranks)
    through_b = torch.randn(num_tokens, num_ranks, device=KERNEL_DEVICE).bfloat16()
    x = torch.randn(num_tokens, num_columns, device=KERNEL_DEVICE)
    # tokens of very unlike magnitudes, one of zeros
    x *= torch.logspace(-6, 3, num_tokens, device=KERNEL_DEVICE)[:, None]
    x[:1] = 0
    return through_b, *quantize_codes.oracle(x)


@pytest.mark.parametrize(
    ("num_tokens", "num_ranks", "num_columns"),
    [(1, 1, 1), (3, 7, 70), (65, 64, 64), (200, 80, 33)],
)
def test_the_kernel_multiplies_what_the_codes_stand_for(
    num_tokens: int, num_ranks: int, num_columns: int
) -> None:
    """In fp32, where the operands are exact: only the order of additions differs."""
    through_b, qdata, scale = operands(num_tokens, num_ranks, num_columns)
    exact = 0.5 * through_b.double().t() @ (qdata.double() * scale.double())
    grad = grad_a_triton(through_b, qdata, scale, 0.5)
    assert grad.dtype == torch.float32
    largest = float(exact.abs().max())
    torch.testing.assert_close(grad.double(), exact, rtol=1e-5, atol=1e-6 * largest)
    oracle = grad_a.oracle(through_b, qdata, scale, 0.5)
    # on a CPU the oracle's product is rounded to bf16
    torch.testing.assert_close(grad, oracle, rtol=2**-8, atol=1e-5 * largest)


def test_the_kernel_gives_the_same_bits_again() -> None:
    arguments = (*operands(150, 21, 70), 1.0)
    assert torch.equal(grad_a_triton(*arguments), grad_a_triton(*arguments))
