"""The training steps that are traced: a model's shapes, a load and a recipe, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from falqon_core.bench.model import dimensions_of, llama_7b
from falqon_core.bench.steps import StepSetup, workloads
from falqon_core.contract.config import Recipe
from falqon_core.data.loader import GPU_ROW_MULTIPLE, Microbatch, microbatches
from falqon_core.data.sequences import Item, Pair
from falqon_core.estimate.memory import plan_memory, training_memory_bytes, usable_bytes
from tests.falqon_core.trace.step import StepTrace, trace_step

MODES: Mapping[str, dict[str, Any]] = {
    "anchored": {"base_copy": "int8"},
    "none": {"base_copy": "none"},
    "topk": {"update_rule": "topk"},
}
RECOMPUTE: dict[str, Any] = {"activation_checkpointing": True}
# Free memory of an empty card of each kind, GiB, of which a training plans to use nine tenths.
FREE_GIB: Mapping[str, float] = {"RTX 4090": 23.5, "RTX 5090": 31.3, "L40S": 44.3, "H100": 79.1}
FEWER, MORE = 2, 3  # layers of what is traced; a figure grows by the same with each


@dataclass(frozen=True)
class Case:
    """16 records of at most 528 tokens, in one microbatch unless it says otherwise."""

    config: PretrainedConfig = field(default_factory=llama_7b)
    packed: bool = False
    dpo: bool = False
    microbatch_tokens: int = 16 * 528
    options: Mapping[str, Any] = field(default_factory=dict)
    period: int = 1  # layers after which the kinds of layers repeat

    @property
    def depths(self) -> tuple[int, int]:
        """Return the layers of both models that are traced."""
        if self.period == 1:
            return FEWER, MORE
        return self.period, 2 * self.period

    @property
    def recipe(self) -> Recipe:
        options = {
            "rank": 64,
            "batch_size": 16,
            "max_seq_length": 528,
            "microbatch_tokens": self.microbatch_tokens,
            "objective": "dpo" if self.dpo else "supervised",
            "activation_checkpointing": False,
            # which A it is changes nothing about a step
            "a_init": "orthonormal",
        }
        return Recipe.model_validate(options | dict(self.options)).resolved(16)

    def microbatches(self, num_layers: int) -> list[Microbatch]:
        load = workloads(StepSetup(config=self.with_layers(num_layers)))[self.packed]
        items: list[Item] = list(load.records)
        if self.dpo:
            pairs = zip(load.records[::2], load.records[1::2], strict=True)
            items = [Pair(chosen, rejected, (-1.0, -1.0)) for chosen, rejected in pairs]
        multiple = GPU_ROW_MULTIPLE if self.packed else 1
        return microbatches(items, self.microbatch_tokens, self.packed, multiple)

    def trace(self, num_layers: int) -> StepTrace:
        batches = self.microbatches(num_layers)
        return trace_step(self.with_layers(num_layers), self.recipe, batches)

    def estimated_bytes(self, num_layers: int) -> int:
        """Return what is planned for the positions that there are, filling included."""
        tokens = max(batch.input_ids.numel() for batch in self.microbatches(num_layers))
        recipe = self.recipe.model_copy(update={"microbatch_tokens": tokens})
        dimensions = dimensions_of(self.with_layers(num_layers))
        return training_memory_bytes(dimensions, recipe, False)

    def with_layers(self, num_layers: int) -> PretrainedConfig:
        """Return the config with so many layers, of one kind or a whole number of periods."""
        changed: dict[str, Any] = {"num_hidden_layers": num_layers}
        if types := getattr(self.config, "layer_types", None):
            one_kind = ["full_attention"] * num_layers
            changed["layer_types"] = one_kind if self.period == 1 else types[:num_layers]
        return type(self.config)(**self.config.to_dict() | changed)


def _shapes(kind: type[PretrainedConfig], vocab: int, sizes: tuple[int, ...]) -> PretrainedConfig:
    hidden, intermediate, layers, heads, kv_heads, head_dim = sizes
    return kind(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        tie_word_embeddings=False,
    )


# hidden, intermediate, layers, heads, heads of keys, size of a head; as their configs publish them
MODELS: Mapping[str, PretrainedConfig] = {
    "Llama-7B": llama_7b(),
    "Llama-13B": _shapes(LlamaConfig, 32000, (5120, 13824, 40, 40, 40, 128)),
    "Qwen2.5-7B": _shapes(Qwen2Config, 152064, (3584, 18944, 28, 28, 4, 128)),
    "Qwen3-8B": _shapes(Qwen3Config, 151936, (4096, 12288, 36, 32, 8, 128)),
    "SmolLM2-135M": _shapes(LlamaConfig, 49152, (576, 1536, 30, 9, 3, 64)),
}
QWEN3_30B = Qwen3MoeConfig(
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=48,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=128,
    num_local_experts=128,
    num_experts_per_tok=8,
    moe_intermediate_size=768,
)
QWEN35_9B = Qwen3_5TextConfig(
    vocab_size=248320,
    hidden_size=4096,
    intermediate_size=12288,
    num_hidden_layers=32,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=256,
)
# A mixture of experts, and a hybrid of delta nets and attention.
OTHERS: dict[str, Case] = {
    "Qwen3-30B-A3B": Case(config=QWEN3_30B, packed=True, options=MODES["anchored"]),
    "Qwen3.5-9B": Case(config=QWEN35_9B, packed=True, options=MODES["anchored"], period=4),
}
CASES: dict[str, Case] = {
    **{f"padded, {mode}": Case(options=options) for mode, options in MODES.items()},
    **{f"packed, {mode}": Case(packed=True, options=options) for mode, options in MODES.items()},
    "padded, anchored, A frozen": Case(options=MODES["anchored"] | {"train_a": False}),
    "padded, anchored, all A train": Case(options=MODES["anchored"] | {"train_a": True}),
    "padded, anchored, recompute": Case(options=MODES["anchored"] | RECOMPUTE),
    "padded, anchored, dpo": Case(dpo=True, options=MODES["anchored"]),
    "packed, anchored, dpo": Case(dpo=True, packed=True, options=MODES["anchored"]),
    "padded, anchored, 4 microbatches": Case(microbatch_tokens=4 * 528, options=MODES["anchored"]),
    "padded, none, recompute, 13B, 2 microbatches": Case(
        config=MODELS["Llama-13B"], microbatch_tokens=8 * 528, options=MODES["none"] | RECOMPUTE
    ),
}


def usable_on(card: str) -> float:
    """Return the bytes of an empty card that a training plans to need."""
    return usable_bytes(round(FREE_GIB[card] * 2**30))


def planned_recipe(card: str, **options: Any) -> Recipe:
    """Return what a training plans on an empty card for the published step of Llama-7B."""
    open_fields = dict.fromkeys(("microbatch_tokens", "activation_checkpointing", "base_copy"))
    recipe = Case(options=options).recipe.model_copy(update=open_fields)
    plan = plan_memory(dimensions_of(llama_7b()), recipe, usable_on(card), device_is_cpu=False)
    assert plan is not None, card
    return plan.recipe


def _planned(card: str, packed: bool = False, **options: Any) -> Case:
    recipe = planned_recipe(card, **options)
    assert recipe.microbatch_tokens is not None
    placement = {
        "base_copy": recipe.base_copy,
        "activation_checkpointing": recipe.activation_checkpointing,
    }
    return Case(
        packed=packed, microbatch_tokens=recipe.microbatch_tokens, options=placement | options
    )


PLANNED: dict[str, Case] = {
    **{card: _planned(card) for card in FREE_GIB},
    **{f"{card}, A frozen": _planned(card, train_a=False) for card in FREE_GIB},
    **{f"{card}, packed": _planned(card, packed=True) for card in FREE_GIB},
}
# whose planned memory is compared with what is traced
MEMORY_CASES: dict[str, Case] = (
    CASES
    | OTHERS
    | {
        f"{model}, {mode}": Case(config=MODELS[model], options=options)
        for model in ("Qwen2.5-7B", "Qwen3-8B", "SmolLM2-135M")
        for mode, options in MODES.items()
    }
)
