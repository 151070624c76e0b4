"""The seconds of one step on an FP8 GPU, on paper: arithmetic only, by which placements in memory
are compared.

Every product takes its operations at a card's rate for so many rows, or its bytes at the card's
bandwidth, whatever is longer; everything else takes its bytes. A step is taken to be `batch_size`
records of the longest kind, in passes of whole records. What is offloaded or sharded travels while
other layers compute, and counts where it takes longer. Gaps between launches and the arithmetic of
attention are left out. Nothing here was measured on a card by this project; the sources of the
rates are named beside them. `tests/falqon_core/trace` counts the same of traced steps.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from falqon_core.contract.config import Recipe
from falqon_core.estimate.adapter import adapter_size
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.layer_kinds import LayerKind, LinearGroup
from falqon_core.estimate.placement import WHOLE, Placement, offloaded_bytes, wire_bytes

# TFLOP/s of torch's row-wise FP8 product with N = K = 4096 on an RTX 5090, by its rows, as
# https://github.com/pytorch/pytorch/pull/155991 measured them; the vendor's peak is 419.
TFLOPS_BY_ROWS = ((16, 17.56), (64, 69.63), (256, 266.57), (1024, 339.28), (4096, 388.91))
# Triton kernels that quantize to FP8 on an H100 reach 80 % and more of 92 % of its bandwidth:
# https://github.com/pytorch/ao/issues/4054.
BANDWIDTH_SHARE = 0.92 * 0.80
# Of a refreshed weight in blocks, by the operators of meld/block_rows.py: six that read and write
# fp32, the base and the values. Counted, not measured.
BLOCK_REFRESH_BYTES = 6 * 8 + 4


class CardRates(NamedTuple):
    """FLOP/s of FP8 and of bf16 products of at least 4096 rows, assumed; bytes/s of the device's
    memory, the vendor's figure times `BANDWIDTH_SHARE`, of the way to the host's, and of that from
    other cards.
    """

    fp8: float
    bf16: float
    memory: float
    host: float = 25e9  # 16 lanes of PCIe 4
    cards: float = 25e9  # the same

    def of_rows(self, num_rows: float, fp8: bool = True) -> float:
        """Return the FLOP/s of a product with so many rows."""
        return (self.fp8 if fp8 else self.bf16) * share_of_rows(num_rows)


CARDS: Mapping[str, CardRates] = {
    "RTX 4090": CardRates(290e12, 150e12, 1.008e12 * BANDWIDTH_SHARE),
    "RTX 5090": CardRates(389e12, 200e12, 1.792e12 * BANDWIDTH_SHARE),
    "L40S": CardRates(420e12, 200e12, 0.864e12 * BANDWIDTH_SHARE),
    # NVLink has 450 GB/s one way, by the vendor; the share is assumed to be that of memory.
    "H100": CardRates(1050e12, 600e12, 3.35e12 * BANDWIDTH_SHARE, cards=450e9 * BANDWIDTH_SHARE),
}
# Placements are compared at these rates on every card: what decides is how much a product costs
# beside a byte, where cards differ by less than half.
PLANNING_RATES = CARDS["RTX 4090"]


def share_of_rows(num_rows: float) -> float:
    """Return the share of its best rate that a product with so many rows reaches, linear in the
    logarithm between what was measured.
    """
    best = TFLOPS_BY_ROWS[-1][1]
    (low, at_low), *others = TFLOPS_BY_ROWS
    if num_rows <= low:
        return max(num_rows, 1) / low * at_low / best
    for high, at_high in others:
        if num_rows <= high:
            part = math.log(num_rows / low) / math.log(high / low)
            return (at_low + part * (at_high - at_low)) / best
        low, at_low = high, at_high
    return 1.0


def num_passes(recipe: Recipe) -> int:
    """Return the passes of a step of whole records, each of the longest kind; `microbatch_tokens`
    and `batch_size` are decided.
    """
    assert recipe.microbatch_tokens is not None, "fit the recipe to memory first"
    assert recipe.batch_size is not None, "resolve the recipe first"
    return math.ceil(recipe.batch_size / max(1, recipe.microbatch_tokens // recipe.longest_record))


def step_seconds(
    dimensions: ModelDimensions,
    recipe: Recipe,
    rates: CardRates = PLANNING_RATES,
    placement: Placement = WHOLE,
) -> float:
    """Return the seconds of a step of `recipe`, which is fit to memory, on an FP8 GPU. Ranks that
    keep a shard each share the records.

    Methods other than "falqon" are taken at their best: all that is fused here is fused there, and
    frozen weights are rounded once, not in every product, and kept in both layouts.
    """
    assert recipe.batch_size is not None, "resolve the recipe first"
    if placement.num_shards > 1:
        of_rank = math.ceil(recipe.batch_size / placement.num_shards)
        recipe = recipe.model_copy(update={"batch_size": of_rank})
    seconds = _computing_seconds(dimensions, recipe, rates)
    # Inputs of layers leave in the forward pass and return in the backward pass; rows of other
    # ranks arrive in both.
    offloaded = offloaded_bytes(dimensions, recipe, placement) * num_passes(recipe) / rates.host
    gathered = wire_bytes(dimensions, placement, num_passes(recipe)) / 2 / rates.cards
    travelling = offloaded + gathered
    forward = seconds / _num_products(recipe)
    seconds = max(forward, travelling) + max(seconds - forward, travelling)
    if recipe.method != "falqon":
        return seconds
    return seconds + _refresh_seconds(dimensions, recipe, rates) / placement.num_shards


def _num_products(recipe: Recipe) -> int:
    """Count them for each weight: forward, grad_input, and forward again where activations are
    computed again.
    """
    return 3 if recipe.activation_checkpointing else 2


def _computing_seconds(dimensions: ModelDimensions, recipe: Recipe, rates: CardRates) -> float:
    assert recipe.batch_size is not None, "resolve the recipe first"
    passes = num_passes(recipe)
    tokens = recipe.batch_size * recipe.longest_record
    rows = tokens / passes
    weights = dimensions.num_linear_parameters
    is_melded = recipe.method == "falqon"
    fp8 = recipe.has_fp8_products
    size = adapter_size(dimensions, recipe)
    num_a = size.frozen_a + size.trained_a
    products = _num_products(recipe)
    beside = num_a + _num_appended(dimensions, recipe) if is_melded else 0
    flops = 2 * tokens * (products * weights + beside)
    read = passes * products * weights * (1 if fp8 else 2)
    linear = max(flops / rates.of_rows(rows, fp8), read / rates.memory)
    linear += _expert_seconds(dimensions, tokens, passes, rates)
    head = 4 * tokens * dimensions.vocab_size * dimensions.hidden_size
    num_bytes = tokens * _bytes_of_token(dimensions, recipe)
    num_bytes += passes * _bytes_of_pass(dimensions, recipe)
    # Gradients, moments, values and the norm of them, in fp32.
    num_bytes += 40 * size.trained
    return linear + head / rates.of_rows(rows, fp8=False) + num_bytes / rates.memory


def _expert_seconds(
    dimensions: ModelDimensions, tokens: int, passes: int, rates: CardRates
) -> float:
    """Return the seconds of the routed experts: products in bf16 with weights that are dequantized
    for each of them, forward, again in backward, and for the gradient of the input.
    """
    if dimensions.experts is None:
        return 0.0
    experts = dimensions.experts
    rows = tokens / passes * experts.num_active / experts.num_experts
    flops = 6 * tokens * dimensions.num_active_expert_parameters
    # Codes are read, bf16 values written and read; those of MXFP4 pass through other forms.
    of_weight = 13 if experts.is_mxfp4 else 5
    moved = 3 * passes * of_weight * dimensions.num_expert_parameters
    return max(flops / rates.of_rows(rows, fp8=False), moved / rates.memory)


def _refresh_seconds(dimensions: ModelDimensions, recipe: Recipe, rates: CardRates) -> float:
    """Return the seconds in which codes are read and written and the base is read, from the host at
    that rate.
    """
    weights = dimensions.num_linear_parameters
    if recipe.weights != "fp8":
        # Plain operators read and write fp32 values several times.
        return BLOCK_REFRESH_BYTES * weights / rates.memory
    from_host = 2 * weights / rates.host if recipe.base_copy == "host" else 0.0
    return max((4 if recipe.base_copy == "device" else 3) * weights / rates.memory, from_host)


def _trained_groups(kind: LayerKind, recipe: Recipe) -> list[LinearGroup]:
    """Return the groups of one layer whose A train."""
    return [
        group
        for group in kind.linear_groups
        if recipe.trains_a_of(group.num_outputs, group.num_inputs)
    ]


def _num_appended(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """Return the codes of B that ride along in grad_input's products, with the zeros beside
    them.
    """
    return recipe.rank * sum(
        kind.number * group.num_linears * group.num_outputs
        for kind in dimensions.layer_kinds
        for group in _trained_groups(kind, recipe)
    )


def _bytes_of_token(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """Return what everything but the large products reads and writes for one token: norms,
    rotations, attention, SwiGLU, adapters, and the loss.
    """
    layers = sum(
        kind.number * _bytes_of_layer(dimensions, kind, recipe) for kind in dimensions.layer_kinds
    )
    mixer = dimensions.mixer
    if mixer is not None:
        # Written and read, forward, again in backward, and for the gradient.
        layers += 6 * mixer.num_layers * mixer.working_bytes(dimensions.hidden_size)
    return layers + 8 * dimensions.vocab_size


def _bytes_of_layer(dimensions: ModelDimensions, kind: LayerKind, recipe: Recipe) -> int:
    hidden = dimensions.hidden_size
    intermediate = kind.intermediate_size
    queries, keys = kind.num_queries, kind.num_keys
    groups = kind.linear_groups
    outputs = sum(group.num_outputs for group in groups)
    forward = 16 * hidden + 11 * queries + 8 * keys + 5 * intermediate
    if recipe.method == "falqon":
        # Gate and up are written as codes, and gradients are no more than codes.
        forward += 2 * intermediate
        backward = 20 * hidden + 11 * queries + 14 * keys + 6 * intermediate
        # dB reads the codes of dY, dA those of x.
        trained = _trained_groups(kind, recipe)
        adapter = outputs + sum(group.num_inputs for group in trained)
    else:
        backward = 20 * hidden + 13 * queries + 16 * keys + 12 * intermediate
        inputs = sum(group.num_inputs for group in groups)
        # x A^T and its product with B, added to y; the same backward, and both gradients.
        adapter = 8 * outputs + 8 * inputs
        if recipe.method == "fp8_lora":
            adapter += 2 * inputs  # The branch reads x in bf16, beside the codes.
    again = forward if recipe.activation_checkpointing else 0
    return forward + backward + again + adapter


def _bytes_of_pass(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """Return what a pass reads and writes however few its tokens: gradients that are added up, and
    melded the codes that are transposed.
    """
    is_transposed = recipe.method == "falqon" and recipe.has_fp8_products
    transposed = 2 * dimensions.num_linear_parameters if is_transposed else 0
    return 18 * adapter_size(dimensions, recipe).trained + transposed
