"""What follows the gradient of a norm; the gradient itself is tested with the norm."""

import pytest
import torch

from falqon_core.ops.kernels import MAX_BLOCK
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.rms_norm import rms_norm_forward
from falqon_core.ops.rms_norm_backward import (
    rms_norm_backward_codes,
    rms_norm_backward_codes_triton,
    rms_norm_backward_triton,
)
from tests.falqon_core.ops.devices import KERNEL_DEVICE, equal_codes


@pytest.mark.parametrize(
    "shape", [(0, 3), (1, 1), (3, 7), (8, 576), (2, MAX_BLOCK), (1, MAX_BLOCK + 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_beside_the_norm_is_added_and_the_sum_quantized(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Bit for bit what three operators make one after another."""
    torch.manual_seed(shape[1])
    grad, x, beside = (torch.randn(shape, device=KERNEL_DEVICE).to(dtype) for _ in range(3))
    weight = torch.randn(shape[1], device=KERNEL_DEVICE).to(dtype)
    column_scale = torch.randint(-8, -4, (shape[1],), device=KERNEL_DEVICE).float().exp2()
    inverse_rms = rms_norm_forward.oracle(x, weight, 1e-5)[1]
    plain = rms_norm_backward_triton(grad, x, weight, inverse_rms)
    expected = plain + beside
    added = rms_norm_backward_triton(grad, x, weight, inverse_rms, beside)
    arguments = grad, x, weight, inverse_rms, beside, column_scale
    total, qdata, scale = rms_norm_backward_codes_triton(*arguments)
    expected_qdata, expected_scale = quantize_codes.oracle(expected, column_scale)
    assert torch.equal(added, expected)
    assert torch.equal(total, expected)
    assert torch.equal(scale, expected_scale)
    assert equal_codes(qdata, expected_qdata)
    oracle, _, oracle_scale = rms_norm_backward_codes.oracle(*arguments)
    assert oracle.shape == total.shape
    assert oracle_scale.shape == scale.shape
