import pytest
import torch
from torch.nn import functional as F

from falqon_core.ops.kernels import MAX_BLOCK
from falqon_core.ops.quantize import quantize_rows
from falqon_core.ops.swiglu import (
    ELEMENTWISE_BLOCK,
    swiglu,
    swiglu_backward,
    swiglu_backward_triton,
    swiglu_forward,
    swiglu_forward_triton,
)
from falqon_core.ops.swiglu_codes import (
    rounded_swiglu,
    swiglu_codes_backward,
    swiglu_codes_backward_triton,
    swiglu_codes_forward,
    swiglu_codes_forward_triton,
)
from tests.falqon_core.ops.devices import (
    KERNEL_DEVICE,
    assert_close_codes,
    assert_rounds_like,
)

DTYPES = [torch.float32, torch.bfloat16]


def inputs(*shape: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """grad_output, gate, up."""
    torch.manual_seed(shape[-1])
    return [torch.randn(shape, device=KERNEL_DEVICE).to(dtype) for _ in range(3)]


def row_scales(num_rows: int) -> torch.Tensor:
    """Those of the rows of a weight."""
    return torch.exp2(torch.randint(-12, -8, (num_rows,), device=KERNEL_DEVICE).float())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_match_autograd(dtype: torch.dtype, tolerance: float) -> None:
    gate, up, grad = (torch.randn(2, 5, 13).to(dtype) for _ in range(3))
    inputs = [gate.requires_grad_(), up.requires_grad_()]
    torch.testing.assert_close(swiglu(gate, up), F.silu(gate) * up, rtol=tolerance, atol=tolerance)
    ours = torch.autograd.grad(swiglu(gate, up), inputs, grad)
    expected = torch.autograd.grad(F.silu(gate) * up, inputs, grad)
    for actual, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "shape", [(0, 3), (1, 1), (5, 1), (3, 7), (2, 3, 257), (2, ELEMENTWISE_BLOCK + 1)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_round_like_the_oracles(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    grad, gate, up = inputs(*shape, dtype=dtype)
    assert_rounds_like(swiglu_forward_triton(gate, up), swiglu_forward.oracle(gate, up))
    for ours, oracle in zip(
        swiglu_backward_triton(grad, gate, up), swiglu_backward.oracle(grad, gate, up), strict=True
    ):
        assert_rounds_like(ours, oracle)


@pytest.mark.parametrize(
    "shape", [(0, 3), (1, 1), (5, 1), (3, 7), (8, 576), (1, MAX_BLOCK), (2, MAX_BLOCK + 1)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_kernels_write_what_the_separate_operators_do(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    grad, gate, up = inputs(*shape, dtype=dtype)
    # The last column is the row's largest, in the product and in the gradient of gate or (every
    # other row) of up.
    gate[:, -1] = 3
    up[0::2, -1] = 50
    up[1::2, -1] = 0.5
    grad[1::2, -1] = 200
    ours = swiglu_codes_forward_triton(gate, up)
    oracle = swiglu_codes_forward.oracle(gate, up)
    for (qdata, scale), (expected_qdata, expected_scale) in zip(
        (ours[:2], ours[2:]), (oracle[:2], oracle[2:]), strict=True
    ):
        assert torch.equal(scale, expected_scale)
        assert_close_codes(qdata, expected_qdata)

    weight_scale = row_scales(2 * shape[1])
    qdata, scale = swiglu_codes_backward_triton(grad, *oracle[2:], weight_scale)
    expected_qdata, expected_scale = swiglu_codes_backward.oracle(grad, *oracle[2:], weight_scale)
    assert torch.equal(scale, expected_scale)
    assert_close_codes(qdata, expected_qdata)


def test_gate_and_up_may_be_the_halves_of_one_tensor() -> None:
    melded = torch.randn(6, 2 * 33 + 5, device=KERNEL_DEVICE).bfloat16()
    grad = torch.randn(6, 40, device=KERNEL_DEVICE).bfloat16()[:, :33]
    gate = melded[:, :33]
    up = melded[:, 33:66]
    halves = swiglu_codes_forward.oracle(gate, up)[2:]
    weight_scale = row_scales(66)
    alone = gate.contiguous(), up.contiguous()
    assert torch.equal(swiglu_forward_triton(gate, up), swiglu_forward_triton(*alone))
    for views, copies in (
        (swiglu_backward_triton(grad, gate, up), swiglu_backward_triton(grad.contiguous(), *alone)),
        (swiglu_codes_forward_triton(gate, up), swiglu_codes_forward_triton(*alone)),
        (
            swiglu_codes_backward_triton(grad, *halves, weight_scale),
            swiglu_codes_backward_triton(grad.contiguous(), *halves, weight_scale),
        ),
    ):
        assert all(
            torch.equal(view.float(), copy.float())
            for view, copy in zip(views, copies, strict=True)
        )


def test_gradients_through_the_codes_are_those_of_the_rounded_halves() -> None:
    gate, up, grad = (torch.randn(2, 5, 13).bfloat16() for _ in range(3))
    inputs = [gate.requires_grad_(), up.requires_grad_()]
    output = rounded_swiglu(gate, up)
    assert torch.equal(output, swiglu_forward(gate, up))
    rounded = (quantize_rows(half.detach().view(10, 13))[0].view_as(half) for half in inputs)
    expected = swiglu_backward(grad, *rounded)
    for ours, other in zip(torch.autograd.grad(output, inputs, grad), expected, strict=True):
        assert torch.equal(ours, other)


# numpy's, in the interpreter; its infinity is what is wanted
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_extreme_gates_stay_finite() -> None:
    gate = torch.tensor([[-1e30, -200.0, -100.0, 100.0, 200.0]], device=KERNEL_DEVICE)
    ones = torch.ones_like(gate)
    torch.testing.assert_close(swiglu_forward_triton(gate, ones), swiglu_forward.oracle(gate, ones))
    for ours, oracle in zip(
        swiglu_backward_triton(ones, gate, ones),
        swiglu_backward.oracle(ones, gate, ones),
        strict=True,
    ):
        torch.testing.assert_close(ours, oracle)


def test_the_gradients_are_the_halves_of_one_buffer() -> None:
    grad, gate, up = inputs(2, 5, 13, dtype=torch.bfloat16)
    for operator in (swiglu_backward.oracle, swiglu_backward_triton):
        grad_gate, grad_up = operator(grad, gate, up)
        assert torch.equal(
            grad_gate.as_strided((2, 5, 26), grad_gate.stride()),
            torch.cat([grad_gate, grad_up], -1),
        )
