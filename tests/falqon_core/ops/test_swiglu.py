import pytest
import torch
from torch import nn
from torch.nn import functional as F

from falqon_core.ops.swiglu import SwiGLU


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_match_autograd(dtype: torch.dtype, tolerance: float) -> None:
    gate, up, down = (nn.Linear(9, 13, bias=False, dtype=dtype), nn.Linear(9, 13, bias=False, dtype=dtype), nn.Linear(13, 9, dtype=dtype))
    x = torch.randn(2, 5, 9).to(dtype).requires_grad_()
    parameters = [x, gate.weight, up.weight, down.weight]
    grad = torch.randn(2, 5, 9).to(dtype)
    ours = torch.autograd.grad(SwiGLU(gate, up, down)(x), parameters, grad)
    expected = torch.autograd.grad(down(F.silu(gate(x)) * up(x)), parameters, grad)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
