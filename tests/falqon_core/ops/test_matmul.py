from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from falqon_core.ops import matmul as module
from falqon_core.ops.attention import causal_attention
from falqon_core.ops.matmul import (
    add_product,
    matmul,
    matmul_fp32,
    multiply_into,
    trained_matmul,
    widen_linears,
)
from tests.falqon_core.ops.devices import KERNEL_DEVICE

ROUNDING = 2**-8  # of a number to bf16, at most


@pytest.fixture
def no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply as on a CPU without bf16 instructions, the right operand in several blocks."""
    monkeypatch.setattr(module, "LACKS_BF16", True)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 1000)


def operands(*batch: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    a = torch.randn(*batch, 37, 130).bfloat16()
    b = torch.randn(*batch, 41, 130).bfloat16().transpose(-1, -2)
    return a, b


def assert_rounds_like(ours: Tensor, expected: Tensor) -> None:
    """Up to one rounding of each to bf16, and the order of the additions."""
    assert ours.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected.float(), rtol=2 * ROUNDING, atol=1e-4)


@pytest.mark.usefixtures("no_bf16")
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_widened_product_is_the_exact_one_rounded_once(batch: tuple[int, ...]) -> None:
    a, b = operands(*batch)
    product = matmul(a, b)
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=ROUNDING, atol=1e-4)
    assert_rounds_like(product, a @ b)
    assert torch.equal(matmul(a, b), product)


@pytest.mark.usefixtures("no_bf16")
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_product_with_rows_that_lie_together_is_the_exact_one_rounded_once(
    batch: tuple[int, ...],
) -> None:
    a = operands(*batch)[0]
    b = torch.randn(130, 41).bfloat16()
    product = matmul(a, b)
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=ROUNDING, atol=1e-4)


def test_a_product_in_fp32_is_the_exact_one_within_the_rounding_of_its_device() -> None:
    a, b = (x.to(KERNEL_DEVICE) for x in operands())
    product = matmul_fp32(a, b)
    assert product.dtype == torch.float32
    rounding = ROUNDING if KERNEL_DEVICE == "cpu" else 1e-5
    torch.testing.assert_close(product.double(), a.double() @ b.double(), rtol=rounding, atol=1e-4)


def test_a_product_is_written_into_columns_and_nowhere_else() -> None:
    a, b = (x.to(KERNEL_DEVICE) for x in operands())
    wide = torch.zeros(37, 60, dtype=torch.bfloat16, device=KERNEL_DEVICE)
    multiply_into(wide[:, 7:48], a, b)
    assert_rounds_like(wide[:, 7:48], matmul(a, b))
    assert not wide[:, :7].any()
    assert not wide[:, 48:].any()


class Dtypes(TorchDispatchMode):
    """Notes the dtypes of what operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.seen.add(result.dtype)
        return result


@pytest.mark.usefixtures("no_bf16")
def test_the_weight_is_not_widened_for_a_single_token() -> None:
    weight = nn.Linear(130, 41, bias=False, dtype=torch.bfloat16).weight.detach()
    token = torch.randn(1, 1, 130).bfloat16()
    with Dtypes() as dtypes:
        product = matmul(token, weight.t())
    assert dtypes.seen == {torch.bfloat16}
    exact = token.double() @ weight.double().t()
    torch.testing.assert_close(product.double(), exact, rtol=ROUNDING, atol=1e-4)


@pytest.mark.usefixtures("no_bf16")
def test_only_bf16_is_widened() -> None:
    a, b = (x.float() for x in operands())
    assert torch.equal(matmul(a, b), a @ b)


def test_with_bf16_instructions_it_is_torchs_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LACKS_BF16", False)
    a, b = operands(2)
    assert torch.equal(matmul(a, b), torch.bmm(a, b))
    linears = nn.Sequential(nn.Linear(130, 41, dtype=torch.bfloat16))
    expected = linears(a)
    widen_linears(linears)
    assert torch.equal(linears(a), expected)


@pytest.mark.parametrize("lacks_bf16", [True, False])
def test_trained_products_have_the_outputs_and_gradients_of_torchs(
    monkeypatch: pytest.MonkeyPatch, lacks_bf16: bool
) -> None:
    monkeypatch.setattr(module, "LACKS_BF16", lacks_bf16)
    a, b = (x.requires_grad_() for x in operands())
    y = torch.randn(37, 41).bfloat16().requires_grad_()
    expected = torch.addmm(y, a, b)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, (y, a, b), grad)
    output = add_product(y, a, b)
    torch.testing.assert_close(output, expected, rtol=2 * ROUNDING, atol=0.1)
    grads = torch.autograd.grad(output, (y, a, b), grad)
    for ours, torchs in zip(grads, expected_grads, strict=True):
        assert_rounds_like(ours, torchs)
    product = trained_matmul(a, b)
    assert_rounds_like(product, a @ b)
    grads = torch.autograd.grad(product, (a, b), grad)
    for ours, torchs in zip(grads, expected_grads[1:], strict=True):
        assert_rounds_like(ours, torchs)


@pytest.mark.usefixtures("no_bf16")
@pytest.mark.parametrize("bias", [True, False])
def test_widened_linears_have_the_outputs_and_gradients_of_torchs(bias: bool) -> None:
    layer = nn.Linear(130, 41, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    x = operands(2)[0].requires_grad_()
    expected = layer(x)
    grad = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, x, grad)
    widen_linears(layer)
    output = layer(x)
    torch.testing.assert_close(output, expected, rtol=2 * ROUNDING, atol=0.01)
    assert_rounds_like(torch.autograd.grad(output, x, grad)[0], expected_grad)


@pytest.mark.usefixtures("no_bf16")
@pytest.mark.parametrize("window", [None, 5])
def test_widened_attention_is_that_of_fp32(window: int | None) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 17, 8).bfloat16().requires_grad_() for _ in range(3)]
    exact = causal_attention(*(x.float() for x in inputs), 0.3, window)
    output = causal_attention(*inputs, 0.3, window)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), exact, rtol=0.02, atol=0.01)
    grad = torch.randn_like(exact).bfloat16()
    for ours, other in zip(
        torch.autograd.grad(output, inputs, grad),
        torch.autograd.grad(exact, inputs, grad.float()),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, rtol=0.05, atol=0.02)
