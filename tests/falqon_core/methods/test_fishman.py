"""LoRA in the FP8 of Fishman et al.: the tensors of a product, their histories, and the MLP."""

import math

import pytest
import torch
from torch import Tensor

from falqon_core.contract.config import Recipe
from falqon_core.meld.blocks import SwiGLU
from falqon_core.methods.adapter import AdaptedLinear
from falqon_core.methods.fishman import (
    GRADIENT,
    HISTORY_STEPS,
    INPUT,
    WEIGHT,
    AmaxHistory,
    DelayedProduct,
    Fishman,
    SmoothSwiGLU,
)
from falqon_core.objectives.loss import microbatch_loss
from falqon_core.ops.formats.float8 import E4M3, E5M2
from tests.falqon_core.meld.models import tiny_model
from tests.falqon_core.methods.test_falqon import batch

DOWN = "model.layers.1.mlp.down_proj"


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std


def started_products() -> tuple[AmaxHistory, list[DelayedProduct], list[Tensor]]:
    """Return the three products of one linear and their weights, before the first step."""
    history = AmaxHistory(seed=5)
    products = [history.add_product() for _ in range(3)]
    weights = [normal(24, 16, seed=1), normal(4, 16, seed=2), normal(24, 4, seed=3)]
    history.start(weights)
    return history, products, weights


def rounded(values: Tensor, amax: float, dtype: torch.dtype) -> Tensor:
    """The authors' scale: 2^floor(log2(max / amax))."""
    largest = torch.finfo(dtype).max
    factor = 2.0 ** math.floor(math.log2(largest / amax))
    return (values * factor).clamp(-largest, largest).to(dtype).float() / factor


def largest(values: Tensor) -> float:
    return values.abs().max().item()


def test_the_first_step_takes_each_tensors_own_magnitude() -> None:
    _, (product, *_), (weight, *_) = started_products()
    x = normal(7, 16, std=0.01)
    expected = rounded(x, largest(x), E4M3) @ rounded(weight, largest(weight), E4M3).t()
    torch.testing.assert_close(product(x, weight), expected)


def test_scales_follow_the_steps_before_and_cut_off_what_is_beyond() -> None:
    history, (product, *_), (weight, *trained) = started_products()
    with torch.no_grad():
        product(normal(7, 16, seed=9, std=100.0), weight)  # an evaluation leaves no trace
    product(normal(7, 16, seed=4), weight)
    product(0.1 * normal(7, 16, seed=4), weight)
    history.end_step(trained)
    x = 100 * normal(7, 16, seed=6)
    amax = largest(normal(7, 16, seed=4))
    expected = rounded(x, amax, E4M3) @ rounded(weight, largest(weight), E4M3).t()
    torch.testing.assert_close(product(x, weight), expected)
    assert largest(rounded(x, amax, E4M3)) < largest(x)
    history.end_step(trained)
    torch.testing.assert_close(
        product(x, weight),
        rounded(x, largest(x), E4M3) @ rounded(weight, largest(weight), E4M3).t(),
    )


def test_a_magnitude_is_forgotten_with_its_step() -> None:
    history, (product, *_), (weight, *trained) = started_products()
    product(normal(7, 16, std=100.0), weight)
    for step in range(HISTORY_STEPS + 1):
        history.end_step(trained)
        is_remembered = step < HISTORY_STEPS
        assert (history.factors[E4M3][product.index, INPUT] < 2) == is_remembered
        product(normal(7, 16), weight)


def test_a_weight_that_grows_is_never_cut_off() -> None:
    history, (_, _, with_b), (_, a, b) = started_products()
    history.end_step([a, 64 * b])
    x = normal(7, 4)
    history.end_step([a, 64 * b])
    factor = history.factors[E4M3][with_b.index, WEIGHT].item()
    assert 224 < largest(64 * b) * factor <= 448
    assert with_b(x, 64 * b).isfinite().all()


def test_gradients_are_those_of_matrices_in_e5m2_on_average() -> None:
    history, (_, with_a, _), (_, a, b) = started_products()
    x = normal(7, 16, std=0.3)
    grad = normal(7, 4, seed=8, std=1e-5)
    sums = [torch.zeros(7, 16), torch.zeros(4, 16)]
    num_steps = 400
    for _ in range(num_steps):
        inputs, weight = x.clone().requires_grad_(), a.clone().requires_grad_()
        with_a(inputs, weight).backward(grad)
        sums[0] += inputs.grad
        sums[1] += weight.grad
        history.end_step([a, b])
    expected = (
        grad @ rounded(a, largest(a), E5M2),
        grad.t() @ rounded(x, largest(x), E5M2),
    )
    for mean, exact in zip(sums, expected, strict=True):
        assert (mean / num_steps - exact).norm() < 0.01 * exact.norm()


def test_the_random_bytes_of_a_gradient_are_of_its_step_product_and_place() -> None:
    def gradients(seed: int = 5) -> list[Tensor]:
        history = AmaxHistory(seed)
        products = [history.add_product() for _ in range(3)]
        history.start([normal(8, 16), normal(4, 16), normal(8, 4)])
        grad = normal(9, 8, seed=8)
        first = [products[0].quantize_gradient(grad), products[2].quantize_gradient(grad)]
        second = products[0].quantize_gradient(grad)
        history.end_step([normal(4, 16), normal(8, 4)])
        third = products[0].quantize_gradient(grad)
        return [each.qdata.float() * each.scale for each in (*first, second, third)]

    these = gradients()
    assert all(torch.equal(a, b) for a, b in zip(these, gradients(), strict=True))
    these.append(gradients(seed=6)[0])
    for index, values in enumerate(these):
        assert not any(torch.equal(values, other) for other in these[:index])


def prepared(name: str, **fields: object) -> tuple[torch.nn.Module, Fishman]:
    recipe = Recipe.model_validate({"method": "fishman", "rank": 4} | fields).resolved(10)
    model = tiny_model(name)
    method = Fishman(recipe)
    method.prepare(model, [])
    return model, method


def test_histories_hold_what_a_step_has_seen() -> None:
    model, method = prepared("llama")
    inputs: list[Tensor] = []
    layer = method.layers[DOWN]
    hook = layer.base.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    (microbatch,) = batch(packing=True)
    microbatch_loss(model, microbatch)[0].backward()
    hook.remove()
    method.after_step()
    index = layer.base.product.index
    newest = method.state()["amax_history"][index, :, 0]
    assert newest[INPUT] == largest(inputs[0])
    assert newest[WEIGHT] == largest(layer.base.weight)
    assert newest[GRADIENT] > 0
    assert method.state()["num_steps"] == 1


@pytest.mark.parametrize("name", ["llama", "llama with biases"])
def test_smooth_swiglu_computes_what_swiglu_computes_on_smaller_numbers(name: str) -> None:
    model, method = prepared(name)
    mlp = model.model.layers[1].mlp
    assert isinstance(mlp, SmoothSwiGLU)
    x = normal(5, 40).bfloat16()
    x[2] *= 30  # an outlier, which a product of two linears squares
    seen: list[Tensor] = []
    mlp.down_proj.base.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        smooth = mlp(x).float()
        mlp.__class__ = SwiGLU
        plain = mlp(x).float()
    assert (smooth - plain).norm() < 0.1 * plain.norm()
    spread = [(y.abs().amax(1).max() / y.abs().amax(1).min()).item() for y in seen]
    assert spread[0] < spread[1] / 4
    mlp.__class__ = SmoothSwiGLU
    method.merge(model)
    assert type(mlp) is SwiGLU


def test_a_block_whose_down_is_not_in_fp8_stays_as_it_is() -> None:
    model, _ = prepared("llama", target_modules=["gate_proj", "up_proj"])
    mlp = model.model.layers[1].mlp
    assert type(mlp) is SwiGLU
    assert isinstance(mlp.up_proj, AdaptedLinear)
