import pytest

from falqon_core.contract.methods import MethodName
from falqon_core.estimate.fit import CARDS, GIB, CardSize, fit_model
from falqon_core.estimate.memory import usable_bytes
from falqon_core.estimate.published import PUBLISHED_MODELS

# As the publishers' pages count them.
NUM_PARAMETERS = {
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "SmolLM3-3B": 3_075_098_624,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.3-70B": 70_553_706_496,
    "LFM2-1.2B": 1_170_340_608,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Phi-4": 14_659_507_200,
    # Of Gemma 4 and Qwen3.5 as transformers counts the text decoder.
    "Gemma-4-E4B": 7_463_013_376,
    "Gemma-4-31B": 30_697_345_280,
    "Qwen3.5-4B": 4_205_751_296,
    "Qwen3.5-9B": 8_953_803_264,
    "Qwen3.5-35B-A3B": 34_660_610_688,
    "Olmo-3-7B": 7_298_011_136,
    "Olmo-3-32B": 32_233_522_176,
    "OLMoE-1B-7B": 6_919_161_856,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "GLM-4.5-Air": 106_852_245_504,  # Without the layer that predicts a second token.
}
SMALL, *_, LARGE = CARDS


def test_each_model_has_the_published_number_of_parameters() -> None:
    assert {name: each.num_parameters for name, each in PUBLISHED_MODELS.items()} == NUM_PARAMETERS


def test_a_fit_leaves_the_memory_alone_that_the_trainer_does() -> None:
    fit = fit_model("Qwen3-8B", "falqon", SMALL)
    assert fit.tokens_at_once is not None
    assert SMALL.device.memory_gib is not None
    assert fit.estimate.memory_bytes <= usable_bytes(SMALL.device.memory_gib * GIB)


def test_a_model_that_does_not_fit_has_no_tokens() -> None:
    fit = fit_model("Llama-3.3-70B", "falqon", SMALL)
    assert (fit.estimate.fits, fit.tokens_at_once) == (False, None)
    assert fit_model("Llama-3.3-70B", "falqon", LARGE).estimate.fits


@pytest.mark.parametrize(("method", "is_slower"), [("lora", True), ("fp8_lora", False)])
def test_methods_with_products_in_bf16_take_longer_on_a_card_with_fp8(
    method: MethodName, is_slower: bool
) -> None:
    falqon, other = (
        fit_model("Qwen3-8B", each, LARGE).estimate.seconds.expected for each in ("falqon", method)
    )
    assert (other > 1.3 * falqon) == is_slower


def test_a_cpu_counts_its_memory_and_its_cores() -> None:
    device = SMALL.device.model_copy(update={"name": "cpu", "tflops": 0.2, "memory_gib": 4.0})
    one, four = (fit_model("SmolLM2-135M", "falqon", CardSize("here", device, n)) for n in (1, 4))
    assert one.estimate.fits
    assert four.estimate.seconds.expected < one.estimate.seconds.expected
    assert not fit_model("Qwen3-8B", "falqon", CardSize("here", device)).estimate.fits
