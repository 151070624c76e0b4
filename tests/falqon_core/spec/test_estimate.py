from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.spec.config import Recipe
from falqon_core.spec.estimate import (
    DEVICES,
    Estimate,
    dollars,
    estimate,
    reference_flops,
    remaining_seconds,
    reported_device,
    tokens_from_characters,
    training_flops,
)  # fmt: skip
from falqon_core.spec.memory import training_memory_bytes
from falqon_core.spec.models import ModelDimensions

SMALL = ModelDimensions(
    hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64, vocab_size=49152,
    max_position_embeddings=8192, tied_embeddings=True,
)  # fmt: skip
SEVEN_B = ModelDimensions(
    hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32, head_dim=128, vocab_size=32000,
    max_position_embeddings=4096, tied_embeddings=False,
)  # fmt: skip


def of(dimensions: ModelDimensions = SMALL, device: str = "h100", **recipe: Any) -> Estimate:
    return estimate(dimensions, Recipe(**recipe).resolved(1000), num_records=1000, tokens_per_epoch=200_000, device=DEVICES[device])


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_more_tokens_take_longer_and_cost_no_less(tokens: int, more: int) -> None:
    recipe = Recipe(num_epochs=1).resolved(1000)
    fewer, many = (
        estimate(SMALL, recipe, num_records=1000, tokens_per_epoch=count, device=DEVICES["h100"]) for count in (tokens, tokens + more)
    )

    assert fewer.seconds.expected < many.seconds.expected
    assert fewer.cost.expected <= many.cost.expected
    assert fewer.trained_tokens < many.trained_tokens


def test_the_band_surrounds_what_is_expected() -> None:
    result = of()

    assert 0 < result.seconds.low < result.seconds.expected < result.seconds.high
    assert result.cost.low <= result.cost.expected <= result.cost.high


@pytest.mark.parametrize(("batch_size", "num_records"), [(4, 10), (4, 12), (7, 10), (16, 10)])
def test_an_epoch_trains_each_token_once(batch_size: int, num_records: int) -> None:
    recipe = Recipe(num_epochs=3, batch_size=batch_size).resolved(num_records)

    result = estimate(SMALL, recipe, num_records=num_records, tokens_per_epoch=1000, device=DEVICES["cpu"], num_devices=2)

    assert result.trained_tokens == 3000
    assert result.steps == recipe.num_steps(num_records)


def test_fewer_steps_train_fewer_tokens() -> None:
    assert of(num_epochs=1, max_steps=25, batch_size=10).trained_tokens == 50_000


def test_two_devices_halve_the_time_at_the_same_cost() -> None:
    recipe = Recipe().resolved(1000)
    one, two = (
        estimate(SMALL, recipe, num_records=1000, tokens_per_epoch=10**6, device=DEVICES["h100"], num_devices=count) for count in (1, 2)
    )

    assert two.seconds.expected == pytest.approx(one.seconds.expected / 2)
    assert abs(two.cost.expected - one.cost.expected) <= Decimal("0.0001")


def test_operations_are_four_a_weight_and_token_and_more() -> None:
    recipe = Recipe(rank=64, max_seq_length=512).resolved(1000)
    linears_only = 4.0 * SEVEN_B.num_linear_parameters * 1000

    assert linears_only < training_flops(SEVEN_B, recipe, 1000) < 1.2 * linears_only


def test_attention_counts_the_keys_that_tokens_see() -> None:
    recipe = Recipe(max_seq_length=512).resolved(1000)
    few, assumed, many = (training_flops(SEVEN_B, recipe, 1000, keys) for keys in (10.0, None, 512.0))

    assert few < assumed < many
    assert many - few == pytest.approx(12 * 32 * 32 * 128 * 502 * 1000)


def test_a_peak_is_told_only_of_devices_that_are_known_exactly() -> None:
    known = reported_device("NVIDIA H100 80GB HBM3")

    assert known is not None
    assert known.name == "h100"
    assert reported_device("NVIDIA H100 PCIe") is None
    assert reported_device("NVIDIA GeForce RTX 4090 Laptop GPU") is None


def test_preferences_begin_with_one_forward_pass_of_the_base() -> None:
    forward = reference_flops(SEVEN_B, Recipe(method="dpo", max_seq_length=512).resolved(1000), 1000)
    assert 2.0 * SEVEN_B.num_linear_parameters * 1000 < forward < 1.2 * 2.0 * SEVEN_B.num_linear_parameters * 1000

    supervised, one, three = of(num_epochs=1), of(method="dpo", num_epochs=1), of(method="dpo", num_epochs=3)
    assert (one.steps, one.trained_tokens) == (supervised.steps, supervised.trained_tokens)
    assert 1.4 < one.seconds.expected / supervised.seconds.expected < 1.6
    assert three.seconds.expected - one.seconds.expected == pytest.approx(2 * supervised.seconds.expected)


def test_memory_grows_with_rank_and_microbatch_and_decides_what_fits() -> None:
    recipes = [Recipe(rank=8), Recipe(rank=256), Recipe(rank=256, microbatch_tokens=16384)]
    sizes = [training_memory_bytes(SEVEN_B, recipe.resolved(100), device_is_cpu=False) for recipe in recipes]

    assert sizes == sorted(set(sizes))
    assert of(SMALL, "rtx-4090").fits is True
    assert of(SMALL, "cpu").fits is None
    too_large = of(SEVEN_B, "rtx-4090", microbatch_tokens=65536)
    assert (too_large.fits, too_large.reason) == (False, "memory_exceeds_device")


def test_the_basis_is_told() -> None:
    assert "roofline" in of().basis
    assert "tokens from characters" in of().basis


def test_tokens_from_characters_count_the_template() -> None:
    assert tokens_from_characters(0, 4) == 100
    assert tokens_from_characters(3600, 0) == 1000


@pytest.mark.parametrize(
    ("rate", "seconds", "expected"),
    [("2.69", 3600, "2.6900"), ("0.045", 60, "0.0008"), ("1", 0, "0.0000"), ("0.36", 0.5, "0.0001"), ("6.88", 86400 * 31.1, "5135.2320")],
)
def test_dollars_are_exact_to_a_hundredth_of_a_cent(rate: str, seconds: float, expected: str) -> None:
    assert str(dollars(Decimal(rate), seconds)) == expected


def test_the_published_costs_follow_from_days_and_a_rate() -> None:
    """Method.md's table, 8 GPUs: QLoRA and QA-LoRA at one market rate, 89.3 and 153.7 days for 6001 and 10328 dollars."""
    for days, published in ((89.3, 6001), (153.7, 10328)):
        assert float(dollars(Decimal("0.35") * 8, days * 86400)) == pytest.approx(published, rel=1e-3)


def test_nothing_is_promised_before_two_steps() -> None:
    assert remaining_seconds([], 10) is None
    assert remaining_seconds([1.0], 10) is None


def test_equal_steps_leave_no_doubt() -> None:
    assert remaining_seconds([2.0] * 5, 10) == (20.0, 20.0, 20.0)
    assert remaining_seconds([2.0, 3.0], 0) == (0.0, 0.0, 0.0)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=50), st.integers(0, 1000))
def test_the_rest_is_a_band_around_the_mean(seconds: list[float], left: int) -> None:
    rest = remaining_seconds(seconds, left)

    assert rest is not None
    assert 0 <= rest.low <= rest.expected <= rest.high
    assert rest.expected == pytest.approx(left * sum(seconds) / len(seconds))


def test_the_band_narrows_as_steps_come_in() -> None:
    widths = []
    for count in (2, 8, 32, 128):
        rest = remaining_seconds([1.0, 2.0] * (count // 2), 100)
        assert rest is not None
        widths.append(rest.high - rest.low)

    assert widths == sorted(widths, reverse=True)
