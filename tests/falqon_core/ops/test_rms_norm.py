import pytest
import torch
from torch import nn

from falqon_core.ops.rms_norm import RMSNorm, rms_norm_torch


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 41), (1, 4, 3, 16)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_output_and_gradient_match_the_oracle(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(shape).to(dtype).requires_grad_()
    same = x.detach().clone().requires_grad_()
    weight = nn.Parameter(torch.rand(shape[-1]).add(0.5).to(dtype), requires_grad=False)
    output, expected = RMSNorm(weight, 1e-5)(x), rms_norm_torch(same, weight, 1e-5)
    assert torch.equal(output, expected)
    grad = torch.randn(shape).to(dtype)
    output.backward(grad)
    expected.backward(grad)
    assert x.grad is not None
    assert same.grad is not None
    torch.testing.assert_close(x.grad, same.grad, rtol=tolerance, atol=tolerance)


def test_views_are_accepted() -> None:
    wide = torch.randn(4, 3, 20)
    weight = nn.Parameter(torch.ones(16), requires_grad=False)
    assert torch.equal(RMSNorm(weight, 1e-6)(wide[..., :16]), RMSNorm(weight, 1e-6)(wide[..., :16].contiguous()))
