from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.contract.config import Recipe
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.estimate import (
    GIB,
    SECONDS_PER_GIB,
    STEP_SECONDS,
    Estimate,
    Range,
    compare,
    estimate,
    forward_flops,
    num_validations,
    tokens_from_characters,
    training_flops,
)
from falqon_core.estimate.experts import Experts
from falqon_core.estimate.memory import training_memory_bytes
from falqon_core.estimate.prices import PRICES
from falqon_core.estimate.throughput import MeasuredMedian, Throughput

SMALL = ModelDimensions(
    hidden_size=576, intermediate_size=1536, num_layers=30, num_heads=9, num_kv_heads=3,
    head_dim=64, vocab_size=49152, max_position_embeddings=8192, tied_embeddings=True,
)  # fmt: skip
SEVEN_B = ModelDimensions(
    hidden_size=4096, intermediate_size=11008, num_layers=32, num_heads=32, num_kv_heads=32,
    head_dim=128, vocab_size=32000, max_position_embeddings=4096, tied_embeddings=False,
)  # fmt: skip


def of(
    dimensions: ModelDimensions = SMALL,
    device: str = "h100",
    tokens: int = 200_000,
    num_devices: int = 1,
    **recipe: Any,
) -> Estimate:
    return estimate(
        dimensions,
        Recipe(**recipe).resolved(1000),
        num_records=1000,
        tokens_per_epoch=tokens,
        device=DEVICES[device],
        num_devices=num_devices,
    )


TINY = ModelDimensions(  # falqon-tiny
    hidden_size=64, intermediate_size=192, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32,
    vocab_size=960, max_position_embeddings=512, tied_embeddings=True,
)  # fmt: skip


def computed_seconds(result: Estimate) -> float:
    """What the operations of a roofline take, without the fixed times."""
    assert result.overhead_seconds is not None
    step = STEP_SECONDS["cpu" if result.device == "cpu" else "gpu"]
    return result.seconds.expected - result.overhead_seconds - step * result.steps


def test_the_automatic_rate_of_the_model_is_told_with_its_reason() -> None:
    rates = [of(dimensions).automatic_rate for dimensions in (SMALL, SEVEN_B)]
    assert [rate and rate.value for rate in rates] == [5e-4, 1.1e-4]
    assert rates[1]
    assert "0.0005 at a width of 576" in rates[1].reason


def test_the_reason_of_the_automatic_rate_belongs_to_no_other_rate() -> None:
    automatic, own = of(), of(learning_rate=1e-3)
    assert automatic.learning_rate == 5e-4
    assert automatic.automatic_rate
    assert automatic.learning_rate_reason == automatic.automatic_rate.reason
    assert (own.learning_rate, own.learning_rate_reason) == (1e-3, None)
    assert of(find_rate=True).learning_rate is None, "a range test tries many"


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_more_tokens_take_longer_and_cost_no_less(tokens: int, more: int) -> None:
    fewer, many = (of(tokens=count, num_epochs=1) for count in (tokens, tokens + more))

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

    result = estimate(
        SMALL,
        recipe,
        num_records=num_records,
        tokens_per_epoch=1000,
        device=DEVICES["cpu"],
        num_devices=2,
    )

    assert result.trained_tokens == 3000
    assert result.steps == recipe.num_steps(num_records)


def test_fewer_steps_train_fewer_tokens() -> None:
    assert of(num_epochs=1, max_steps=25, batch_size=10).trained_tokens == 50_000


def test_two_devices_halve_the_time_at_the_same_cost() -> None:
    single, double = (of(tokens=10**6, num_devices=count) for count in (1, 2))

    assert computed_seconds(double) == pytest.approx(computed_seconds(single) / 2)
    fixed = single.seconds.expected - computed_seconds(single)
    assert float(double.cost.expected - single.cost.expected) == pytest.approx(
        fixed * 2.69 / 3600, abs=1e-4
    ), "two wait for what is not shared"


def test_no_more_devices_are_busy_than_a_step_has_records() -> None:
    two, eight = (of(tokens=10**6, num_devices=count, batch_size=2) for count in (2, 8))
    assert eight.seconds == two.seconds
    assert float(eight.cost.expected) == pytest.approx(4 * float(two.cost.expected), rel=1e-3)


def test_operations_are_four_a_weight_and_token_and_more() -> None:
    recipe = Recipe(rank=64, max_seq_length=512).resolved(1000)
    linears_only = 4.0 * SEVEN_B.num_linear_parameters * 1000

    assert linears_only < training_flops(SEVEN_B, recipe, 1000) < 1.2 * linears_only


def test_attention_counts_the_keys_that_tokens_see() -> None:
    recipe = Recipe(max_seq_length=512).resolved(1000)
    few, assumed, many = (
        training_flops(SEVEN_B, recipe, 1000, keys) for keys in (10.0, None, 512.0)
    )

    assert few < assumed < many
    assert many - few == pytest.approx(12 * 32 * 32 * 128 * 502 * 1000)


def test_passes_over_the_validation_data_take_time() -> None:
    """One before the first step, one after each of three epochs, and one of the merged model with
    rounded activations; where weights are merged, one more. A range test does none.
    """
    recipe = Recipe(max_seq_length=512, num_epochs=3).resolved(1000)
    for changes, expected in (
        ({}, 5),
        ({"objective": "dpo"}, 5),
        ({"method": "lora"}, 6),
        ({"weights": "nvfp4"}, 4),
        ({"eval_every": 100}, 10),
        ({"find_rate": True}, 0),
    ):
        changed = recipe.model_copy(update=changes)
        assert num_validations(changed, 750, 1000, num_validation_examples=200) == expected

    def seconds(validation_tokens: int, num_validation_examples: int | None = None) -> float:
        return estimate(
            SEVEN_B, recipe, num_records=1000, tokens_per_epoch=100_000,
            num_validation_records=200, num_validation_examples=num_validation_examples,
            validation_tokens=validation_tokens, device=DEVICES["h100"],
        ).seconds.expected  # fmt: skip

    longer = seconds(10_000) - seconds(0)
    one_pass = forward_flops(SEVEN_B, recipe, 10_000) / (DEVICES["h100"].tflops * 0.4e12)
    assert longer == pytest.approx(5 * one_pass)
    longer = seconds(10_000, num_validation_examples=10) - seconds(0)
    assert longer == pytest.approx((1 + 15 + 1) * one_pass), "five an epoch, by what a step counts"


def test_preferences_begin_with_one_forward_pass_of_the_base() -> None:
    forward = forward_flops(
        SEVEN_B, Recipe(objective="dpo", max_seq_length=512).resolved(1000), 1000
    )
    assert (
        2.0 * SEVEN_B.num_linear_parameters * 1000
        < forward
        < 1.2 * 2.0 * SEVEN_B.num_linear_parameters * 1000
    )

    supervised = of(num_epochs=1)
    one_epoch = of(objective="dpo", num_epochs=1)
    three_epochs = of(objective="dpo", num_epochs=3)
    assert (one_epoch.steps, one_epoch.trained_tokens) == (
        supervised.steps,
        supervised.trained_tokens,
    )
    assert 1.4 < computed_seconds(one_epoch) / computed_seconds(supervised) < 1.6
    assert computed_seconds(three_epochs) - computed_seconds(one_epoch) == pytest.approx(
        2 * computed_seconds(supervised)
    )


def test_memory_grows_with_rank_and_microbatch_and_decides_what_fits() -> None:
    recipes = [Recipe(rank=8), Recipe(rank=256), Recipe(rank=256, microbatch_tokens=16384)]
    sizes = [
        training_memory_bytes(SEVEN_B, recipe.resolved(100), device_is_cpu=False)
        for recipe in recipes
    ]

    assert sizes == sorted(set(sizes))
    assert of(SMALL, "rtx-4090").fits is True
    assert of(SMALL, "cpu").fits is None
    too_large = of(SEVEN_B, "rtx-4090", microbatch_tokens=65536)
    assert (too_large.fits, too_large.reason) == (False, "memory_exceeds_device")


def test_a_roofline_says_what_it_is() -> None:
    result = of()

    assert (result.basis, result.n, result.tokens_basis) == ("roofline", 0, "characters")
    overhead = result.overhead_seconds
    assert overhead == pytest.approx(
        20 + 15 + SECONDS_PER_GIB["gpu"] * 2 * SMALL.num_parameters / GIB
    )
    assert result.explanation == (
        "roofline at 40% of 1979 TFLOP/s, and about 38 s for start and export; "
        "tokens from characters"
    )
    assert result.tokens_per_second == pytest.approx(
        result.trained_tokens / (result.seconds.expected - overhead), rel=1e-3
    )


@pytest.mark.parametrize("seconds", [49.0, 60.6, 96.9], ids=["idle", "busy", "busier"])
def test_the_first_job_of_the_small_model_takes_what_such_jobs_took(seconds: float) -> None:
    """400 records on two cores that others used less and more; they ended after so many seconds."""
    result = estimate(
        TINY,
        Recipe().resolved(400),
        num_records=400,
        tokens_per_epoch=15_715,
        device=DEVICES["cpu"],
        num_devices=2,
    )
    assert result.steps == 300
    assert compare(result.seconds, seconds, None).inside_band
    assert result.cost.expected > 0


MEASURED = Throughput(
    n=7,
    tokens_per_second=MeasuredMedian(median=500.0, factor=1.25),
    overhead_seconds=MeasuredMedian(median=40.0, factor=2.0),
)


def test_experts_of_a_cpu_are_called_in_every_step_however_few_its_tokens() -> None:
    experts = Experts(num_experts=32, num_active=4, intermediate_size=128)
    mixture = TINY.model_copy(update={"experts": experts})
    few, many = (of(mixture, "cpu", tokens, num_devices=2) for tokens in (1_000, 10_000))
    dense = of(TINY, "cpu", 1_000, num_devices=2)
    called = few.seconds.expected - dense.seconds.expected
    # What was measured: 35 us a call of a small expert's product, of which each has six a step.
    assert called > few.steps * 6 * 2 * 32 * 35e-6
    assert many.seconds.expected - few.seconds.expected < called


def test_a_local_measurement_precedes_any_roofline() -> None:
    arguments = {
        "num_records": 1000,
        "tokens_per_epoch": 200_000,
        "device": DEVICES["rtx-4090"],
        "throughput": MEASURED,
    }
    result = estimate(
        SMALL, Recipe(num_epochs=1).resolved(1000), tokens_basis="counted", **arguments
    )

    assert (result.basis, result.n, result.tokens_per_second, result.overhead_seconds) == (
        "measured",
        7,
        500.0,
        40.0,
    )
    assert result.seconds == Range(low=400 / 1.25 + 20, expected=440.0, high=400 * 1.25 + 80)
    assert result.cost.expected == Decimal("0.0428")
    assert (
        result.explanation
        == "median of 7 finished attempts of this installation; tokens counted by the tokenizer"
    )
    guessed = estimate(
        SMALL, Recipe(num_epochs=1).resolved(1000), tokens_basis="characters", **arguments
    )
    assert guessed.seconds.low < result.seconds.low
    assert guessed.seconds.high > result.seconds.high


def test_a_measured_range_test_reads_twice_and_exports_nothing() -> None:
    def of_range_test(throughput: Throughput | None) -> Estimate:
        return estimate(
            SMALL,
            Recipe(find_rate=True).resolved(1000),
            num_records=1000,
            tokens_per_epoch=200_000,
            device=DEVICES["cpu"],
            throughput=throughput,
            tokens_basis="counted",
        )

    measured, assumed = of_range_test(MEASURED), of_range_test(None)
    trained = of(device="cpu", tokens=200_000)
    overheads = [each.overhead_seconds or 0.0 for each in (measured, assumed, trained)]
    share = overheads[1] / overheads[2]
    assert overheads[0] == pytest.approx(40.0 * share), "the start alone"
    of_steps = measured.trained_tokens / 500.0
    computed = measured.seconds.expected - overheads[0]
    assert 1.3 * of_steps < computed < 1.7 * of_steps, "a forward pass besides, of three"


@given(
    st.integers(0, 10**9),
    st.floats(1e-3, 1e6),
    st.floats(1.0, 100),
    st.none() | st.tuples(st.floats(0, 1e5), st.floats(1.0, 100)),
)
def test_measured_bands_surround_what_is_expected(
    tokens: int, rate: float, factor: float, overhead: tuple[float, float] | None
) -> None:
    speed = Throughput(
        n=1,
        tokens_per_second=MeasuredMedian(median=rate, factor=factor),
        overhead_seconds=MeasuredMedian(median=overhead[0], factor=overhead[1])
        if overhead
        else None,
    )
    recipe = Recipe(num_epochs=1).resolved(1000)
    result = estimate(
        SMALL,
        recipe,
        num_records=1000,
        tokens_per_epoch=tokens,
        device=DEVICES["cpu"],
        throughput=speed,
    )

    assert 0 <= result.seconds.low <= result.seconds.expected <= result.seconds.high
    assert 0 <= result.cost.low <= result.cost.expected <= result.cost.high


def test_the_price_is_the_given_one_or_the_devices_default() -> None:
    aws = next(price for price in PRICES if price.provider == "AWS")
    arguments = {"num_records": 1000, "tokens_per_epoch": 10**8, "device": DEVICES["h100"]}
    dear, cheap = (
        estimate(SMALL, Recipe().resolved(1000), price=price, **arguments) for price in (aws, None)
    )

    assert dear.cost.expected / cheap.cost.expected == pytest.approx(
        Decimal("6.88") / Decimal("2.69"), rel=Decimal("0.001")
    )
    assert (dear.cost.usd_per_device_hour, dear.cost.price_source) == (
        Decimal("6.88"),
        "AWS, on demand, 2026-11-09",
    )


def test_an_end_is_compared_with_what_was_expected() -> None:
    expected = Range(low=80.0, expected=100.0, high=150.0)

    assert compare(expected, 120.04, Decimal("0.5")).model_dump(mode="json") == {
        "seconds": 120.0, "cost": "0.5", "ratio": 1.2004, "inside_band": True,
    }  # fmt: skip
    assert not compare(expected, 151.0, None).inside_band
    assert compare(Range(low=0.0, expected=0.0, high=0.0), 1.0, None).ratio is None


def test_tokens_from_characters_count_the_template() -> None:
    assert tokens_from_characters(0, 4) == 100
    assert tokens_from_characters(3600, 0) == 1000
