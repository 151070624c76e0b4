"""The memory that a training needs, and the recipe that fits into a given number of bytes:
arithmetic only.

Counted: the backbone with its base copy, embeddings, the adapter with its optimizer, and the
activations of one microbatch: what each layer keeps for backward, what one layer works with at its
peak, and the chunked logits. Activation checkpointing keeps the inputs of all layers and what one
layer keeps. A chosen along the gradient is found with one longest record at a time, for which a
layer also keeps the inputs of its linears; on a GPU that happens before codes and optimizer are
there, and needs less than training does. The program itself and what allocators round up are not
counted, so a caller leaves some of the free memory alone.

Where nothing fits so, the inputs of layers move to the host's memory (`offloads`), and where that
is not enough, the ranks of a job keep a part of the weights each (`num_shards`). Neither changes
the bits of a training.

On a GPU attention keeps no probabilities but its output, and q, k and v are views of one product,
rotated in it where the layer is fused; codes are 1 byte a weight, and one weight at a time is
transposed. With FP8 gate and up are codes as well. Weights in blocks are kept as the bf16 values
that are multiplied, on every device, with a scale in fp32 for each block.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from falqon_core.contract.block_weights import BLOCK_SPECS, SCALE_BYTES
from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.contract.recipe_options import BaseCopy
from falqon_core.estimate.adapter import adapter_size, num_kept_inputs
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.layer_kinds import LayerKind
from falqon_core.estimate.memory_terms import (
    attention_backward_bytes,
    expert_working_bytes,
    sketch_bytes,
)
from falqon_core.estimate.placement import (
    LAYERS_GATHERED,
    LAYERS_NOT_OFFLOADED,
    WHOLE,
    Placement,
    gathered_bytes,
)
from falqon_core.estimate.step_seconds import step_seconds

# Packed rows are filled up to a multiple of so many tokens on a GPU; between two sizes of padded
# batches lie whole records, so the step is fine enough for both.
MICROBATCH_STEP_TOKENS = 16
MAX_AUTOMATIC_MICROBATCH_TOKENS = {
    "cpu": 4096,
    "gpu": 32768,
}  # Beyond these a forward pass gains nothing.
SHORT_ATTENTION_TOKENS = (
    512  # Up to here a segment keeps its attention probabilities (ops/attention.py).
)
# A chunk of the loss: logits, softmax and gradient (ops/cross_entropy.py).
LOGITS_BYTES = {"cpu": 3 * 24 * 2**20, "gpu": 3 * 256 * 2**20}
PLAIN_LOGITS_BYTES = 128 * 2**20  # On a GPU: bf16 logits, and the gradient in their place.
# Bytes of a weight's base on the device; an open base copy counts as the least that it may become.
CPU_BASE_BYTES: dict[BaseCopy | None, int] = {"device": 2, "int8": 1, "host": 2, "none": 0, None: 2}
GPU_BASE_BYTES: dict[BaseCopy | None, int] = {"device": 2, "int8": 1, "host": 0, "none": 0, None: 0}
# A base in host memory passes through two buffers of this size on the device.
HOST_BLOCK_BYTES = 32 * 2**20
# Choices for an open base copy; of equally fast ones the first is taken.
GPU_BASE_COPIES: tuple[BaseCopy, ...] = ("int8", "host")
GPU_BLOCK_BASE_COPIES: tuple[BaseCopy, ...] = ("int8", "device")
# The share of free memory that the estimate may fill; the rest is for uncounted parts: libraries'
# own buffers, and blocks that allocators round up and cannot join again (60 MiB on a CPU even for
# the smallest model).
USABLE_SHARE = 0.9
RESERVED_BYTES = 64 * 2**20
# The smallest configuration that `largest_fitting` names.
SHORTEST_SEQUENCE_TOKENS = 64
LOWEST_RANK = 8


def usable_bytes(available: float) -> float:
    """Return the part of `available` bytes that a training may be planned to need."""
    return max(0.0, USABLE_SHARE * available - RESERVED_BYTES)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A recipe with all that depends on memory decided, and where its tensors lie."""

    recipe: Recipe
    placement: Placement = WHOLE


def training_memory_bytes(
    dimensions: ModelDimensions,
    recipe: Recipe,
    device_is_cpu: bool,
    placement: Placement = WHOLE,
) -> int:
    """Return the peak bytes of one process on its device. An open `microbatch_tokens` counts as the
    smallest, one longest record.
    """
    if recipe.weights != "fp8":  # Products and what they keep are bf16 then.
        dimensions = dimensions.model_copy(update={"has_fp8": False})
    size = adapter_size(dimensions, recipe)
    spec = METHOD_SPECS[recipe.method]
    is_melded = recipe.method == "falqon"
    weight = _weight_bytes(recipe, device_is_cpu) / placement.num_shards
    backbone = round(weight * dimensions.num_linear_parameters)
    if placement.num_shards > 1:
        of_layer = gathered_bytes(dimensions, device_is_cpu) // dimensions.num_layers
        backbone += LAYERS_GATHERED * of_layer
    frozen = dimensions.num_embedding_parameters + dimensions.num_gate_parameters
    backbone += 2 * frozen + dimensions.expert_bytes
    # The state of a trained element: itself, its gradient and two moments in fp32.
    adapter = spec.state_bytes * size.trained
    if is_melded:  # A in bf16, on a GPU codes as well
        adapter += (2 if device_is_cpu else 3) * (size.frozen_a + size.trained_a)
    tokens = recipe.longest_record if recipe.microbatch_tokens is None else recipe.microbatch_tokens
    # bf16, or e4m3 codes
    input_bytes = 1 if is_melded and not device_is_cpu and dimensions.has_fp8 else 2
    activations = _activation_bytes(
        dimensions,
        recipe,
        tokens,
        device_is_cpu,
        gate_bytes=1 if input_bytes == 1 and dimensions.keeps_gate_codes else 2,
        kept_input_bytes=lambda kind: input_bytes * num_kept_inputs(kind, recipe),
        offloads=placement.offloads,
    )
    if not (is_melded and device_is_cpu):
        # Gate and up transposed, or the largest weight dequantized.
        one_weight = 2 * dimensions.intermediate_size * dimensions.hidden_size
        passing = 2 * HOST_BLOCK_BYTES if recipe.base_copy == "host" else 0
        return backbone + adapter + activations + one_weight + passing
    if recipe.a_init == "gradient":
        shortest = min(tokens, recipe.longest_record)
        preparing = _activation_bytes(
            dimensions,
            recipe,
            shortest,
            device_is_cpu,
            kept_input_bytes=_all_inputs_bytes,
        )
        activations = max(activations, preparing)
    return backbone + adapter + activations


def _weight_bytes(recipe: Recipe, device_is_cpu: bool) -> float:
    """Return the bytes of a frozen weight: in its method's format, or melded the quantized row and
    its base.
    """
    if recipe.method != "falqon":
        return METHOD_SPECS[recipe.method].base_bytes
    row = 2.0 if device_is_cpu else 1.0  # bf16 values, or e4m3 codes
    if recipe.weights != "fp8":
        row = 2 + SCALE_BYTES / BLOCK_SPECS[recipe.weights].block
    if recipe.update_rule == "topk":
        return row
    if device_is_cpu:
        return row + CPU_BASE_BYTES[recipe.base_copy]
    if recipe.weights != "fp8" and recipe.base_copy is None:
        return row + min(GPU_BASE_BYTES[choice] for choice in GPU_BLOCK_BASE_COPIES)
    return row + GPU_BASE_BYTES[recipe.base_copy]


def _all_inputs_bytes(kind: LayerKind) -> int:
    """Return the bf16 bytes that the linears of one layer read of a token."""
    return 2 * sum(group.num_inputs for group in kind.linear_groups)


def untouched_memory_bytes(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """Return the peak bytes on a GPU before training, while the bf16 model lies there whole, its
    experts in FP8, and the directions of A are sought.
    """
    activations = _activation_bytes(
        dimensions,
        recipe,
        recipe.longest_record,
        device_is_cpu=False,
        kept_input_bytes=_all_inputs_bytes,
    )
    plain = 2 * (dimensions.num_parameters - dimensions.num_expert_parameters)
    weights = plain + dimensions.expert_bytes
    return weights + sketch_bytes(dimensions, recipe) + activations


def host_base_bytes(
    dimensions: ModelDimensions, recipe: Recipe, placement: Placement = WHOLE
) -> int:
    """Return the bytes of host memory that each process of a GPU's training keeps its base in."""
    if recipe.base_copy != "host":
        return 0
    return 2 * dimensions.num_linear_parameters // placement.num_shards


def largest_microbatch_tokens(
    dimensions: ModelDimensions,
    recipe: Recipe,
    num_bytes: float,
    device_is_cpu: bool,
    placement: Placement = WHOLE,
) -> int | None:
    """Return the largest `microbatch_tokens`, in steps of `MICROBATCH_STEP_TOKENS`, with which
    `recipe` needs at most `num_bytes`.

    Return None when not even one record of the longest kind fits.
    """
    shortest = recipe.longest_record
    ceiling = max(shortest, MAX_AUTOMATIC_MICROBATCH_TOKENS["cpu" if device_is_cpu else "gpu"])
    sizes = [shortest, *range(ceiling, shortest, -MICROBATCH_STEP_TOKENS)[::-1]]
    num_fitting = bisect_right(
        sizes,
        num_bytes,
        key=lambda tokens: training_memory_bytes(
            dimensions,
            recipe.model_copy(update={"microbatch_tokens": tokens}),
            device_is_cpu,
            placement,
        ),
    )
    return sizes[num_fitting - 1] if num_fitting else None


def plan_memory(
    dimensions: ModelDimensions,
    recipe: Recipe,
    num_bytes: float,
    device_is_cpu: bool,
    num_processes: int = 1,
) -> MemoryPlan | None:
    """Return the plan of `recipe` for processes of `num_bytes` each, its explicit choices kept;
    None when it cannot fit.

    On a GPU the fastest of all that fit is taken (`step_seconds`): a base on the device or the
    host, activations kept or computed again, each with the largest microbatch. On a CPU activations
    are checkpointed only when not even the smallest microbatch fits without. Activations are
    offloaded only when nothing fits otherwise, and weights sharded only when not even that helps.
    """
    for placement in placements(recipe, device_is_cpu, num_processes):
        fitting = _fitting_recipes(dimensions, recipe, num_bytes, device_is_cpu, placement)
        if device_is_cpu:
            chosen = next(fitting, None)
        else:
            seconds_of = partial(step_seconds, dimensions, placement=placement)
            chosen = min(fitting, key=seconds_of, default=None)
        if chosen is not None:
            return MemoryPlan(chosen, placement)
    return None


def placements(recipe: Recipe, device_is_cpu: bool, num_processes: int) -> list[Placement]:
    """Return the placements that `recipe` may have, in the order in which they are tried.

    A CPU's activations are in host memory anyway. Rows are sharded that a base rebuilds; without
    one, the rows of other ranks would be needed to choose which to change. Scales of blocks are
    gathered by none, so blocks are not sharded.
    """
    offloading = [False]
    if not device_is_cpu and recipe.activation_checkpointing is not False:
        offloading.append(True)
    shards = [1]
    is_anchored = recipe.update_rule == "anchored" and recipe.base_copy != "none"
    has_rows = recipe.method == "falqon" and recipe.weights == "fp8"
    if num_processes > 1 and has_rows and is_anchored:
        shards.append(num_processes)
    return [Placement(offloads, number) for number, offloads in product(shards, offloading)]


def _fitting_recipes(
    dimensions: ModelDimensions,
    recipe: Recipe,
    num_bytes: float,
    device_is_cpu: bool,
    placement: Placement,
) -> Iterator[Recipe]:
    """Yield a recipe for each base and each treatment of activations with which it fits."""
    bases: Sequence[BaseCopy | None] = [recipe.base_copy]
    if recipe.method == "falqon" and recipe.base_copy is None and recipe.update_rule == "anchored":
        bases = GPU_BASE_COPIES if recipe.weights == "fp8" else GPU_BLOCK_BASE_COPIES
        if device_is_cpu:
            bases = ["device"]
    checkpointings = [recipe.activation_checkpointing]
    if recipe.activation_checkpointing is None:
        checkpointings = [True] if placement.offloads else [False, True]
    for base_copy, checkpointing in product(bases, checkpointings):
        chosen = recipe.model_copy(
            update={"base_copy": base_copy, "activation_checkpointing": checkpointing}
        )
        if recipe.microbatch_tokens is None:
            tokens = largest_microbatch_tokens(
                dimensions, chosen, num_bytes, device_is_cpu, placement
            )
            if tokens is not None:
                yield chosen.model_copy(update={"microbatch_tokens": tokens})
        elif training_memory_bytes(dimensions, chosen, device_is_cpu, placement) <= num_bytes:
            yield chosen


def largest_fitting(
    dimensions: ModelDimensions,
    recipe: Recipe,
    num_bytes: float,
    device_is_cpu: bool,
    num_processes: int = 1,
) -> Recipe | None:
    """Return the next smaller recipe that fits, decided as by `plan_memory`: a smaller microbatch
    and another place of the base, then shorter records, then a lower rank. Whether there is a base
    is not changed: without one it is another rule.
    """
    for rank in _halves(recipe.rank, LOWEST_RANK):
        for length in _halves(recipe.max_seq_length, SHORTEST_SEQUENCE_TOKENS):
            smaller = {
                "rank": rank,
                "max_seq_length": length,
                "microbatch_tokens": None,
                "activation_checkpointing": None,
                "base_copy": "none" if recipe.base_copy == "none" else None,
            }
            if plan := plan_memory(
                dimensions,
                recipe.model_copy(update=smaller),
                num_bytes,
                device_is_cpu,
                num_processes,
            ):
                return plan.recipe
    return None


def _activation_bytes(
    dimensions: ModelDimensions,
    recipe: Recipe,
    tokens: int,
    device_is_cpu: bool,
    *,
    kept_input_bytes: Callable[[LayerKind], int],
    gate_bytes: int = 2,
    offloads: bool = False,
) -> int:
    """Return the bytes of all activations. Gate and up are kept at `gate_bytes` an element. Of the
    inputs that a layer's linears read of a token `kept_input_bytes` are kept for backward. With
    `offloads` the inputs of layers are in host memory.
    """
    hidden = dimensions.hidden_size
    kinds = dimensions.layer_kinds
    intermediate = max(kind.intermediate_size for kind in kinds)
    # bf16 elements per token. Saved: the inputs of both norms; what the token mixer keeps; gate and
    # up; the products with A, beside the outputs and apart.
    probabilities = dimensions.num_heads * min(recipe.max_seq_length, SHORT_ATTENTION_TOKENS)
    if not device_is_cpu:
        probabilities = 0
    saved_by_kind = [
        2 * hidden
        + dimensions.num_extra_activations
        + _mixing_elements(dimensions, kind, probabilities, device_is_cpu)
        + gate_bytes * kind.intermediate_size
        + 2 * len(kind.linear_shapes) * recipe.rank
        + kept_input_bytes(kind) // 2
        + (_routed_elements(dimensions) if kind.has_experts else 0)
        for kind in kinds
    ]
    saved = max(saved_by_kind)
    queries = max(kind.num_queries for kind in kinds)
    working = 6 * hidden + 4 * queries + 4 * intermediate + probabilities
    if recipe.activation_checkpointing:
        working += saved
        num_layers = dimensions.num_layers
        kept = hidden * (min(LAYERS_NOT_OFFLOADED, num_layers) if offloads else num_layers)
    else:
        kept = sum(
            kind.number * of_kind for kind, of_kind in zip(kinds, saved_by_kind, strict=True)
        )
    if dimensions.has_plain_logits and not device_is_cpu:
        logits = min(tokens * 2 * dimensions.vocab_size, PLAIN_LOGITS_BYTES)
    else:
        logits_ceiling = LOGITS_BYTES["cpu" if device_is_cpu else "gpu"]
        logits = min(tokens * 12 * dimensions.vocab_size, logits_ceiling)
    working_bytes = 2 * tokens * working + expert_working_bytes(dimensions, tokens, device_is_cpu)
    if dimensions.mixer is not None:
        working_bytes += tokens * dimensions.mixer.working_bytes(hidden)
    if not device_is_cpu:
        of_backward = attention_backward_bytes(dimensions, recipe, tokens)
        if recipe.activation_checkpointing:
            of_backward += 2 * tokens * saved
        working_bytes = max(working_bytes, of_backward)
    # The loss is computed before any layer's backward begins; a CPU's allocator keeps its chunks.
    largest = working_bytes + logits if device_is_cpu else max(working_bytes, logits)
    return 2 * tokens * (kept + 2 * hidden) + largest


def _mixing_elements(
    dimensions: ModelDimensions, kind: LayerKind, probabilities: int, device_is_cpu: bool
) -> int:
    """Count the bf16 elements of a token that attention keeps, or the mixer in its place: q, k, v,
    q and k rotated, and on a CPU its probabilities.
    """
    if kind.mixer is not None:
        return kind.mixer.num_kept(dimensions.hidden_size)
    queries, keys = kind.num_queries, kind.num_keys
    kept = 2 * queries + 3 * keys
    if dimensions.has_gated_attention:
        kept += 3 * queries  # The gate, its sigmoid, and what it multiplies.
    if device_is_cpu:
        return kept + probabilities
    # The output of attention, and fp32 sums.
    kept += queries + 2 * dimensions.num_heads
    if dimensions.rotates_in_place and dimensions.has_fp8:
        kept -= queries + keys
    return kept


def _routed_elements(dimensions: ModelDimensions) -> int:
    """Count the bf16 elements of a token that a layer with experts keeps: what router and experts
    read, and the numbers (int64) and weights (fp32 at most) of the chosen ones.
    """
    assert dimensions.experts is not None, "such a layer has experts"
    return dimensions.hidden_size + 6 * dimensions.experts.num_active


def _halves(number: int, lowest: int) -> list[int]:
    halves = [number]
    while halves[-1] // 2 >= lowest:
        halves.append(halves[-1] // 2)
    return halves
