"""Plans of trainings that one card holds only in part: their activations wait in host memory, or
several cards keep a part of the weights each. Arithmetic alone (`falqon_core.estimate`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import MemoryPlan, plan_memory, training_memory_bytes
from falqon_core.estimate.placement import offloaded_bytes, wire_bytes
from falqon_core.estimate.published import PUBLISHED_MODELS
from falqon_core.estimate.step_seconds import CARDS, num_passes, step_seconds
from tests.falqon_core.trace.cases import usable_on

GB = 1e9


def _dimensions(model_type: str, *sizes: int) -> ModelDimensions:
    hidden, intermediate, layers, heads, kv_heads, vocabulary = sizes
    return ModelDimensions.from_config(
        {
            "model_type": model_type,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 128,
            "vocab_size": vocabulary,
            "max_position_embeddings": 40960,
        }
    )


# As their configs publish them.
QWEN3_8B = _dimensions("qwen3", 4096, 12288, 36, 32, 8, 151936)
QWEN3_14B = _dimensions("qwen3", 5120, 17408, 40, 40, 8, 151936)
QWEN3_32B = _dimensions("qwen3", 5120, 25600, 64, 64, 8, 151936)
LLAMA_70B = _dimensions("llama", 8192, 28672, 80, 64, 8, 128256)


@dataclass(frozen=True)
class Training:
    """A training on `num_cards` empty cards of one machine."""

    name: str
    dimensions: ModelDimensions
    card: str
    num_cards: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate({"batch_size": 16, **self.options}).resolved(1000)

    def plan(self) -> MemoryPlan | None:
        usable = usable_on(self.card)
        return plan_memory(self.dimensions, self.recipe, usable, False, self.num_cards)


LONG: dict[str, Any] = {"max_seq_length": 32768, "batch_size": 1}
TRAININGS = (
    Training(
        "Qwen3-8B, 16k tokens", QWEN3_8B, "RTX 4090", options=LONG | {"max_seq_length": 16384}
    ),
    Training("Qwen3-8B, 32k tokens", QWEN3_8B, "RTX 4090", options=LONG),
    Training("Llama-70B", LLAMA_70B, "H100"),
    Training("Llama-70B", LLAMA_70B, "H100", 2),
    Training("Llama-70B", LLAMA_70B, "H100", 4),
    Training("Llama-70B", LLAMA_70B, "H100", 8),
    Training("Qwen3-32B", QWEN3_32B, "RTX 4090", 4),
    Training("Qwen3-14B, QLoRA", QWEN3_14B, "RTX 4090", options={"method": "qlora"}),
    Training("Qwen3-32B, QLoRA", QWEN3_32B, "RTX 4090", options={"method": "qlora"}),
    Training(
        "Qwen3-32B, QLoRA, rank 8, 1k tokens",
        QWEN3_32B,
        "RTX 4090",
        options={"method": "qlora", "rank": 8, "max_seq_length": 1024},
    ),
)


QWEN35_27B = ModelDimensions.from_config(
    {
        "model_type": "qwen3_5_text",
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_hidden_layers": 64,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "linear_num_value_heads": 48,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
        "tie_word_embeddings": False,
    }
)
# Each on the smallest of the cards that holds it.
MIXTURES_AND_HYBRIDS = (
    *(
        Training(name, PUBLISHED_MODELS[name], card)
        for name, card in (
            ("gpt-oss-20b", "RTX 4090"),
            ("gpt-oss-120b", "H100"),
            ("Qwen3-30B-A3B", "L40S"),
            ("Qwen3.5-35B-A3B", "L40S"),
            ("Qwen3.5-9B", "RTX 4090"),
            ("Gemma-4-E4B", "RTX 4090"),
            ("Gemma-4-31B", "L40S"),
            ("GLM-4.5-Air", "H100"),
        )
    ),
    Training("Qwen3.5-27B", QWEN35_27B, "L40S"),
)


def mixture_lines() -> Iterator[str]:
    yield "Rank 64, 16 records of 2048 tokens and A trained, each on the smallest of the cards that"
    yield "holds it, or on the largest."
    yield ""
    yield "| model | card | plan GB | experts GB | base, activations | tokens a pass | s on paper |"
    yield "|---|---|---:|---:|---|---:|---:|"
    yield from map(_mixture_line, MIXTURES_AND_HYBRIDS)
    yield ""
    yield "Experts: e4m3, of gpt-oss MXFP4, with their routers. Seconds: experts are dequantized"
    yield "for each product and multiplied in bf16 by torch's grouped product; the state of delta"
    yield "nets is counted as bytes, without the launches below. The attention of gpt-oss, with"
    yield "sinks, goes segment by segment and is left out, as above."


def _mixture_line(training: Training) -> str:
    plan = training.plan()
    experts = training.dimensions.expert_bytes
    of_experts = f"{experts / GB:.1f}" if experts else ""
    if plan is None:
        return f"| {training.name} | {training.card} | does not fit | {of_experts} | | | |"
    recipe = plan.recipe
    planned = training_memory_bytes(training.dimensions, recipe, False, plan.placement)
    activations = "recomputed" if recipe.activation_checkpointing else "kept"
    if plan.placement.offloads:
        activations += ", inputs on the host"
    cells = (
        training.name,
        training.card,
        f"{planned / GB:.1f}",
        of_experts,
        f"{recipe.base_copy}, {activations}",
        f"{recipe.microbatch_tokens}",
        _seconds(training, plan),
    )
    return f"| {' | '.join(cells)} |"


def placement_lines() -> Iterator[str]:
    yield "Rank 64, 16 records of 2048 tokens and A trained, unless the row says otherwise."
    yield ""
    yield (
        "| training | cards | plan GB | base, activations | tokens a pass | to the host, and back, "
        "GB a pass | from other cards, GB a step | s on paper |"
    )
    yield "|---|---|---:|---|---:|---:|---:|---:|"
    yield from map(_line, TRAININGS)
    yield ""
    yield "Bytes are those of one card. Host memory is taken to be reached at"
    yield f"{CARDS['RTX 4090'].host / GB:.0f} GB/s (16 lanes of PCIe 4), another RTX 4090 as well,"
    yield f"another H100 at {CARDS['H100'].cards / GB:.0f} GB/s (NVLink, 450 by the vendor) or, in"
    yield "brackets, as the host. Copies hide behind computing: of both a step takes the longer,"
    yield "forward and backward each. Dequantizing NF4 is not counted: QLoRA has no seconds. Of"
    yield "each sharded layer a card receives all rows but its own, e4m3, twice a pass. Attention's"
    yield "arithmetic is left out as above: at 32k tokens it has as many operations as all"
    yield "products, in bf16."


def _line(training: Training) -> str:
    cards = f"{training.num_cards} x {training.card}"
    plan = training.plan()
    if plan is None:
        return f"| {training.name} | {cards} | does not fit | | | | | |"
    recipe, placement = plan.recipe, plan.placement
    planned = training_memory_bytes(training.dimensions, recipe, False, placement)
    assert recipe.batch_size is not None
    of_card = math.ceil(recipe.batch_size / placement.num_shards)
    passes = num_passes(recipe.model_copy(update={"batch_size": of_card}))
    base: str = recipe.base_copy or "NF4"
    if placement.num_shards > 1:
        base += f" in {placement.num_shards} parts"
    activations = "recomputed" if recipe.activation_checkpointing else "kept"
    if placement.offloads:
        activations += ", inputs on the host"
    offloaded = offloaded_bytes(training.dimensions, recipe, placement)
    wire = wire_bytes(training.dimensions, placement, passes)
    cells = [
        training.name,
        cards,
        f"{planned / GB:.1f}",
        f"{base}, {activations}",
        f"{recipe.microbatch_tokens}",
        f"{offloaded / GB:.1f}" if offloaded else "",
        f"{wire / GB:.0f} in {passes} pass{'' if passes == 1 else 'es'}" if wire else "",
        _seconds(training, plan),
    ]
    return f"| {' | '.join(cells)} |"


def _seconds(training: Training, plan: MemoryPlan) -> str:
    if plan.recipe.method == "qlora":
        return ""
    rates = CARDS[training.card]
    arguments = (training.dimensions, plan.recipe)
    seconds = f"{step_seconds(*arguments, rates, plan.placement):.2f}"
    if plan.placement.num_shards > 1 and rates.cards > rates.host:
        by_host = step_seconds(*arguments, rates._replace(cards=rates.host), plan.placement)
        seconds += f" ({by_host:.2f})"
    return seconds
