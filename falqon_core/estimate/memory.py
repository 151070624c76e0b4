"""How much memory a training needs and what fits into a given number of bytes: arithmetic only.

Counted: the backbone with its base copy, embeddings, the adapter with its optimizer, and the
activations of one microbatch: what each layer keeps for backward, what one layer works with at its
peak, and the chunked logits. Activation checkpointing keeps the inputs of all layers and what one
layer keeps. A chosen along the gradient is found with one longest record at a time, for which every
layer also keeps the inputs of its linears. The program itself and what allocators round up are not
counted, so a caller leaves some of the free memory alone.
"""

from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions

MICROBATCH_STEP = 1024
MAX_AUTOMATIC_MICROBATCH = {"cpu": 4096, "gpu": 32768}  # beyond these a forward pass gains nothing
SHORT_ATTENTION = 512  # up to here a segment keeps its attention probabilities (ops/attention.py)
# a chunk of the loss: logits, softmax and gradient (ops/cross_entropy.py)
LOGITS_BYTES = 3 * 24 * 2**20
# the smallest configuration that `largest_fitting` names
SHORTEST = 64
LOWEST_RANK = 8


def training_memory_bytes(dimensions: ModelDimensions, recipe: Recipe, device_is_cpu: bool) -> int:
    """Return the peak bytes of one process. An open `microbatch_tokens` counts as the smallest, one
    longest record.
    """
    a_elements, b_elements = dimensions.num_adapter_parameters(recipe.rank)
    counted = ("device", "host", None) if device_is_cpu else ("device", None)
    keeps_base = recipe.update_rule == "anchored" and recipe.base_copy in counted
    # bf16 rows on the CPU, e4m3 codes in two layouts on a GPU; and the bf16 base
    weight = 4 if keeps_base else 2
    backbone = weight * dimensions.num_linear_parameters + 2 * dimensions.num_embedding_parameters
    adapter = 2 * a_elements + 16 * b_elements  # bf16 A; B, its gradient and two moments in fp32
    tokens = recipe.longest_record if recipe.microbatch_tokens is None else recipe.microbatch_tokens
    activations = _activation_bytes(dimensions, recipe, tokens)
    if recipe.a_init == "gradient":
        activations = max(
            activations,
            _activation_bytes(
                dimensions, recipe, min(tokens, recipe.longest_record), with_inputs=True
            ),
        )
    return backbone + adapter + activations


def largest_microbatch_tokens(
    dimensions: ModelDimensions, recipe: Recipe, num_bytes: float, device_is_cpu: bool
) -> int | None:
    """Return the largest `microbatch_tokens`, in steps of `MICROBATCH_STEP`, with which `recipe`
    needs at most `num_bytes`.

    Return None when not even one record of the longest kind fits.
    """
    shortest = recipe.longest_record
    ceiling = max(shortest, MAX_AUTOMATIC_MICROBATCH["cpu" if device_is_cpu else "gpu"])
    sizes: list[int] = [*range(ceiling, shortest, -MICROBATCH_STEP), shortest]
    for tokens in sizes:
        if (
            training_memory_bytes(
                dimensions, recipe.model_copy(update={"microbatch_tokens": tokens}), device_is_cpu
            )
            <= num_bytes
        ):
            return tokens
    return None


def fit_recipe(
    dimensions: ModelDimensions, recipe: Recipe, num_bytes: float, device_is_cpu: bool
) -> Recipe | None:
    """`recipe` with what depends on memory decided, keeping what was asked for; None when it cannot
    fit.

    Activations are checkpointed only when not even the smallest microbatch fits without.
    """
    choices = [recipe.activation_checkpointing]
    if recipe.activation_checkpointing is None:
        choices = [False, True]
    for checkpointing in choices:
        chosen = recipe.model_copy(update={"activation_checkpointing": checkpointing})
        if recipe.microbatch_tokens is None:
            chosen = chosen.model_copy(
                update={
                    "microbatch_tokens": largest_microbatch_tokens(
                        dimensions, chosen, num_bytes, device_is_cpu
                    )
                }
            )
        if (
            chosen.microbatch_tokens is not None
            and training_memory_bytes(dimensions, chosen, device_is_cpu) <= num_bytes
        ):
            return chosen
    return None


def largest_fitting(
    dimensions: ModelDimensions, recipe: Recipe, num_bytes: float, device_is_cpu: bool
) -> Recipe | None:
    """Return the next smaller recipe that fits, decided as by `fit_recipe`: a smaller microbatch,
    then shorter records, then a lower rank.
    """
    for rank in _halves(recipe.rank, LOWEST_RANK):
        for length in _halves(recipe.max_seq_length, SHORTEST):
            smaller = {
                "rank": rank,
                "max_seq_length": length,
                "microbatch_tokens": None,
                "activation_checkpointing": None,
            }
            if fitting := fit_recipe(
                dimensions, recipe.model_copy(update=smaller), num_bytes, device_is_cpu
            ):
                return fitting
    return None


def _activation_bytes(
    dimensions: ModelDimensions, recipe: Recipe, tokens: int, *, with_inputs: bool = False
) -> int:
    hidden = dimensions.hidden_size
    intermediate = dimensions.intermediate_size
    queries = dimensions.num_heads * dimensions.head_dim
    keys = dimensions.num_kv_heads * dimensions.head_dim
    probabilities = dimensions.num_heads * min(recipe.max_seq_length, SHORT_ATTENTION)
    # bf16 elements per token. Saved: the inputs of both norms; q, k, v, and q and k rotated; gate
    # and up; the products with A, beside the outputs and apart.
    products = 2 * len(dimensions.linear_shapes) * recipe.rank
    saved = 2 * hidden + 2 * queries + 3 * keys + 2 * intermediate + products + probabilities
    saved += dimensions.num_extra_activations
    working = 6 * hidden + 4 * queries + 4 * intermediate + probabilities
    inputs = 2 * hidden + queries + intermediate if with_inputs else 0
    layers = (
        dimensions.num_layers * ((hidden if recipe.activation_checkpointing else saved) + inputs)
        + working
    )
    if recipe.activation_checkpointing:
        layers += saved
    logits = min(tokens * 12 * dimensions.vocab_size, LOGITS_BYTES)
    return 2 * tokens * (layers + 2 * hidden) + logits


def _halves(number: int, lowest: int) -> list[int]:
    halves = [number]
    while halves[-1] // 2 >= lowest:
        halves.append(halves[-1] // 2)
    return halves
