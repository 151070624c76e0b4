import pytest
import torch
from torch import nn

from falqon_core.ops.kernels import MAX_BLOCK
from falqon_core.ops.rms_norm import (
    RMSNorm,
    rms_norm_codes,
    rms_norm_codes_triton,
    rms_norm_forward,
    rms_norm_forward_triton,
    rms_norm_torch,
)
from falqon_core.ops.rms_norm_backward import rms_norm_backward, rms_norm_backward_triton
from tests.falqon_core.ops.devices import (
    KERNEL_DEVICE,
    assert_close_codes,
    assert_rounds_like,
)

EPS = 1e-5
SHAPES = [(0, 3), (1, 1), (5, 1), (3, 7), (2, 3, 257), (8, 576), (2, MAX_BLOCK), (1, MAX_BLOCK + 1)]
DTYPES = [torch.float32, torch.bfloat16]


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, device=KERNEL_DEVICE).to(dtype)


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 41), (1, 4, 3, 16)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_output_and_gradient_match_the_oracle(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    x = torch.randn(shape).to(dtype).requires_grad_()
    same = x.detach().clone().requires_grad_()
    weight = nn.Parameter(torch.rand(shape[-1]).add(0.5).to(dtype), requires_grad=False)
    output = RMSNorm(weight, 1e-5)(x)
    expected = rms_norm_torch(same, weight, 1e-5)
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
    assert torch.equal(
        RMSNorm(weight, 1e-6)(wide[..., :16]), RMSNorm(weight, 1e-6)(wide[..., :16].contiguous())
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_round_like_the_oracles(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(shape[-1])
    x = randn(*shape, dtype=dtype)
    grad = randn(*shape, dtype=dtype)
    weight = randn(shape[-1], dtype=dtype)
    y, inverse_rms = rms_norm_forward_triton(x, weight, EPS)
    expected, expected_inverse = rms_norm_forward.oracle(x, weight, EPS)
    torch.testing.assert_close(inverse_rms, expected_inverse, rtol=1e-6, atol=0)
    assert_rounds_like(y, expected)
    ours = rms_norm_backward_triton(grad, x, weight, expected_inverse)
    oracle = rms_norm_backward.oracle(grad, x, weight, expected_inverse)
    # g - n * mean(g * n) cancels (to zero with one column), so here the last bits of fp32 are those
    # of its terms.
    rounding = 2**-7 if dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(
        ours,
        oracle,
        rtol=rounding + 1e-5,
        atol=1e-5 * float(expected_inverse.amax()) if x.numel() else 0,
    )


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_fused_kernel_writes_what_the_separate_operators_do(
    shape: tuple[int, int], dtype: torch.dtype, with_residual: bool
) -> None:
    torch.manual_seed(shape[-1])
    x = randn(*shape, dtype=dtype)
    weight = randn(shape[1], dtype=dtype)
    residual = randn(*shape, dtype=dtype) if with_residual else None
    qdata, scale, total, inverse_rms = rms_norm_codes_triton(x, residual, weight, EPS)
    expected_qdata, expected_scale, expected_total, expected_inverse = rms_norm_codes.oracle(
        x, residual, weight, EPS
    )
    assert torch.equal(total, expected_total)
    assert torch.equal(scale, expected_scale)
    torch.testing.assert_close(inverse_rms, expected_inverse, rtol=1e-6, atol=0)
    assert_close_codes(qdata, expected_qdata)


def test_a_row_of_zeros_has_finite_results() -> None:
    qdata, scale, total, inverse_rms = rms_norm_codes_triton(
        torch.zeros(2, 9, device=KERNEL_DEVICE), None, torch.ones(9, device=KERNEL_DEVICE), EPS
    )
    assert qdata.float().eq(0).all()
    assert scale.isfinite().all()
    assert total.eq(0).all()
    torch.testing.assert_close(inverse_rms, torch.full_like(inverse_rms, EPS**-0.5))


def test_the_kernels_read_rows_at_any_stride() -> None:
    torch.manual_seed(0)
    x, residual, grad = (
        randn(6, 50, dtype=torch.bfloat16)[:, offset : offset + 33] for offset in (0, 8, 17)
    )
    weight = randn(33, dtype=torch.bfloat16)
    y, inverse_rms = rms_norm_forward_triton(x, weight, EPS)
    assert_rounds_like(y, rms_norm_forward.oracle(x, weight, EPS)[0])
    assert_rounds_like(
        rms_norm_backward_triton(grad, x, weight, inverse_rms),
        rms_norm_backward.oracle(grad, x, weight, inverse_rms),
    )
    # what the gradient of a sum looks like
    ones = torch.ones(1, 1, device=KERNEL_DEVICE, dtype=torch.bfloat16).expand(6, 33)
    assert_rounds_like(
        rms_norm_backward_triton(ones, x, weight, inverse_rms),
        rms_norm_backward.oracle(ones, x, weight, inverse_rms),
    )
    qdata, _, total, _ = rms_norm_codes_triton(x, residual, weight, EPS)
    assert torch.equal(total, x + residual)
    assert_close_codes(qdata, rms_norm_codes.oracle(x, residual, weight, EPS)[0])
