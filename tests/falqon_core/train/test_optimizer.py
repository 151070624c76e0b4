import pytest
import torch
from torch import nn

from falqon_core.contract.config import Recipe
from falqon_core.contract.recipe_options import LrSchedule
from falqon_core.train.optimizer import Optimizer, learning_rate


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_rates_rise_to_the_peak_and_never_reach_zero(schedule: LrSchedule) -> None:
    recipe = Recipe(learning_rate=0.1, lr_schedule=schedule, warmup_ratio=0.1).resolved(10)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert 0 < rates[0] < rates[5] < rates[9] < rates[10] == 0.1
    assert max(rates) == 0.1
    assert min(rates) > 0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    middle = {"constant": 0.1, "linear": 0.05, "cosine": 0.05}[schedule]
    assert rates[55] == pytest.approx(middle)
    assert (rates[99] < 0.01) == (schedule != "constant")


def test_without_warmup_a_single_step_has_the_peak_rate() -> None:
    assert learning_rate(Recipe(learning_rate=0.1, warmup_ratio=0.0).resolved(10), 0, 1) == 0.1


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"one": nn.Parameter(torch.randn(5, 3)), "two": nn.Parameter(torch.randn(700))}


def do(
    optimizer: Optimizer, weights: dict[str, nn.Parameter], step: int, without: str | None = None
) -> None:
    generator = torch.Generator().manual_seed(step)
    for name, parameter in weights.items():
        if name != without:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.clip()
    optimizer.step(0.01)


def test_a_loaded_optimizer_continues_bit_for_bit() -> None:
    weights = parameters()
    of_step = {"one": lambda step: 1 / (step + 1)}
    optimizer = Optimizer(weights, 0.1, 1.0, relative_rates=of_step)
    for step in range(6):
        if step == 3:
            state = {key: value.clone() for key, value in optimizer.state().items()}
            copy = {
                name: nn.Parameter(parameter.detach().clone())
                for name, parameter in weights.items()
            }
        do(optimizer, weights, step, without="two" if step == 1 else None)
    resumed = Optimizer(copy, 0.1, 1.0, relative_rates=of_step)
    resumed.load(state)
    for step in range(3, 6):
        do(resumed, copy, step)
    assert all(torch.equal(weights[name], copy[name]) for name in weights)
    assert all(torch.equal(value, resumed.state()[key]) for key, value in optimizer.state().items())


def test_a_parameter_may_have_a_rate_of_its_own() -> None:
    weights = parameters()
    optimizer = Optimizer(weights, 0.0, 1.0, relative_rates={"two": lambda _step: 2.0})
    do(optimizer, weights, 0)
    moved = {name: (weights[name] - before).abs() for name, before in parameters().items()}
    # AdamW's first step is the rate
    torch.testing.assert_close(moved["one"], torch.full((5, 3), 0.01), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(moved["two"], torch.full((700,), 0.02), rtol=1e-3, atol=1e-6)


def test_moments_in_fp8_lie_on_the_grids_of_their_scales() -> None:
    weights = parameters()
    plain_weights = parameters()
    optimizer = Optimizer(weights, 0.0, 1.0, moments="fp8")
    plain = Optimizer(plain_weights, 0.0, 1.0)
    for step in range(20):
        do(optimizer, weights, step)
        do(plain, plain_weights, step)
    for key, largest, dtype in (
        ("exp_avg", 448.0, torch.float8_e4m3fn),
        ("exp_avg_sq", 57344.0, torch.float8_e5m2),
    ):
        values = optimizer.state()[f"two.{key}"]
        codes = values * (largest / values.abs().max())
        torch.testing.assert_close(codes.to(dtype).float(), codes, rtol=1e-5, atol=1e-7)
        assert optimizer.state()[f"two.{key}"].dtype == torch.float32
    moved, expected = (
        (after["two"] - parameters()["two"]).detach() for after in (weights, plain_weights)
    )
    assert (moved - expected).norm() < 0.4 * expected.norm()


def test_clipping_scales_all_gradients_to_the_common_norm_and_tells_the_norm_before() -> None:
    weights = parameters()
    for parameter in weights.values():
        parameter.grad = torch.ones_like(parameter)
    norm = Optimizer(weights, 0.0, 2.0).clip()
    assert norm == pytest.approx(715**0.5)
    after = sum(float(parameter.grad.square().sum()) for parameter in weights.values()) ** 0.5
    assert after == pytest.approx(2.0, rel=1e-4)
