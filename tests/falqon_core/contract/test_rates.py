import pytest

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS, MethodName
from falqon_core.contract.rates import MEASURED_WIDTH, rate_for_width


def test_a_wider_model_has_a_lower_rate_and_a_narrower_one_the_measured() -> None:
    rates = [rate_for_width(2e-3, width).value for width in (64, 576, 2048, 4096, 8192)]
    assert rates == [2e-3, 2e-3, 7.4e-4, 4.3e-4, 2.5e-4]
    assert "(576 / 4096)" in rate_for_width(2e-3, 4096).reason
    assert rate_for_width(2e-3, 4096).reason.endswith("as published for LoRA, not measured here")


def test_the_rate_of_lora_for_a_7b_is_the_usual_one() -> None:
    """Guides begin at 2e-4 (Unsloth) to 5e-4 (the base of tinker-cookbook, before its sweep)."""
    assert 1e-4 <= Recipe(method="lora").automatic_rate(4096).value <= 1e-3


@pytest.mark.parametrize("method", METHOD_SPECS)
@pytest.mark.parametrize("objective", ["supervised", "dpo"])
def test_every_method_follows_the_width(method: MethodName, objective: str) -> None:
    recipe = Recipe.model_validate({"method": method, "objective": objective})
    narrow = recipe.automatic_rate(MEASURED_WIDTH).value
    assert recipe.automatic_rate(4096).value == pytest.approx(0.216 * narrow, rel=0.05)
    assert recipe.resolved(100, width=4096).learning_rate == recipe.automatic_rate(4096).value


def test_the_published_rule_keeps_its_published_rate() -> None:
    recipe = Recipe(update_rule="topk")
    assert recipe.automatic_rate(4096) == recipe.automatic_rate(576)
    assert recipe.automatic_rate().reason == "as published"
    preference = recipe.model_copy(update={"objective": "dpo"}).automatic_rate()
    assert preference.value == pytest.approx(2e-4)
    assert preference.reason == "a tenth of the published one"
