"""LoRA over products in FP8."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from falqon_core.contract.config import Recipe
from falqon_core.methods.fp8_lora import Fp8Lora, multiply_fp8
from tests.falqon_core.meld.models import tiny_model


def products(multiply: Callable[[Tensor, Tensor], Tensor]) -> Sequence[Tensor]:
    """Return x W^T and the gradients of x and W, of the same random bf16 matrices each time."""
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(*shape, generator=generator).bfloat16()
        for shape in ((2, 24, 96), (64, 96), (2, 24, 64))
    )
    x, weight = nn.Parameter(x), nn.Parameter(weight)
    y = multiply(x, weight)
    y.backward(grad)
    assert x.grad is not None
    assert weight.grad is not None
    return y.detach(), x.grad, weight.grad


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Within bf16's rounding of the largest values: products are rounded in another order."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        limit = 2.0**-7 * b.float().abs().max()
        torch.testing.assert_close(a.float(), b.float(), rtol=0.01, atol=limit.item())


def test_products_are_those_of_the_rounded_matrices() -> None:
    def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
        factor = torch.finfo(dtype).max / values.abs().max().double()
        return (values.float() * factor.float()).to(dtype).float() / factor.float()

    generator = torch.Generator().manual_seed(0)
    x = rounded(torch.randn(48, 96, generator=generator).bfloat16(), torch.float8_e4m3fn)
    weight = rounded(torch.randn(64, 96, generator=generator).bfloat16(), torch.float8_e4m3fn)
    grad = rounded(torch.randn(48, 64, generator=generator).bfloat16(), torch.float8_e5m2)
    expected = x @ weight.t(), grad @ weight, grad.t() @ x
    shapes = (2, 24, 64), (2, 24, 96), (64, 96)
    rows = [y.bfloat16().view(shape) for y, shape in zip(expected, shapes, strict=True)]
    assert_close(products(multiply_fp8), rows)


def test_products_are_torchaos() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed: pip install '.[bench]'")
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def multiply(x: Tensor, weight: Tensor) -> Tensor:
        linear = nn.Linear(96, 64, bias=False, dtype=torch.bfloat16)
        linear.weight = weight
        model = nn.Sequential(linear)
        convert_to_float8_training(model, config=Float8LinearConfig(emulate=True))
        return model(x)

    assert_close(products(multiply_fp8), products(multiply))


def test_adapters_in_fp8_compute_nearly_what_they_compute_in_bf16() -> None:
    layers = []
    for adapters_fp8 in (False, True):
        recipe = Recipe.model_validate(
            {"method": "fp8_lora", "rank": 16, "alpha": 8, "adapters_fp8": adapters_fp8}
        ).resolved(10)
        method = Fp8Lora(recipe)
        method.prepare(tiny_model("llama"), [])
        adapter = method.layers["model.layers.0.mlp.up_proj"].adapter
        torch.nn.init.normal_(adapter.lora_b, generator=torch.Generator().manual_seed(0))
        layers.append(adapter)
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    y = torch.zeros(50, 56, dtype=torch.bfloat16)
    with torch.no_grad():
        plain, in_fp8 = (adapter(x, y).float() for adapter in layers)
    error = (plain - in_fp8).norm() / plain.norm()
    assert 0.01 < error < 0.08
