"""Parts of a GPU's memory that last for a moment: the search for A's directions, and the gradient
of attention.
"""

from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions

SKETCH_ROWS_PER_RANK = 2  # meld/init.py draws twice as many directions as it keeps.
# Of an RTX PRO 6000, the most of the cards that are known here.
MAX_MULTIPROCESSORS = 188
MXFP4_WEIGHTS = 2**26  # decoded at once (ops/grouped_product.py)
HEAD_BLOCK = 32  # FlashAttention adds up gradients of heads that are multiples of it.


def sketch_bytes(dimensions: ModelDimensions, recipe: Recipe) -> int:
    """Return the bytes of all sketches of the gradient, fp32 [2r, I] for each linear, and of the
    largest random matrix, bf16 [O, 2r]; 0 where A is not sought along the gradient.

    On a CPU, where all random matrices lie as well, they take less than the adapter's state, which
    comes after them.
    """
    if recipe.a_init != "gradient":
        return 0
    rows = SKETCH_ROWS_PER_RANK * recipe.rank
    kinds = dimensions.layer_kinds
    inputs = sum(
        kind.number * group.num_linears * group.num_inputs
        for kind in kinds
        for group in kind.linear_groups
    )
    outputs = max(outputs for kind in kinds for outputs, _ in kind.linear_shapes.values())
    return rows * (4 * inputs + 2 * outputs)


def expert_working_bytes(dimensions: ModelDimensions, tokens: int, device_is_cpu: bool) -> int:
    """Return the bytes with which the routed experts of one layer compute: their intermediate
    results, which are computed again in backward, and weights dequantized to bf16: of one expert on
    a CPU, of all gates and ups at once on a GPU.
    """
    experts = dimensions.experts
    if experts is None:
        return 0
    hidden = dimensions.hidden_size
    # Of each expert of a token: its input and output, gate and up, their activation and product.
    results = experts.num_active * (3 * hidden + 5 * experts.intermediate_size)
    one = experts.num_weights(hidden)
    dequantized = one if device_is_cpu else experts.num_experts * one * 2 // 3
    if experts.is_mxfp4:
        dequantized += 2 * min(dequantized, MXFP4_WEIGHTS)  # codes and values in other forms
    return 2 * (tokens * results + dequantized)


def attention_backward_bytes(dimensions: ModelDimensions, recipe: Recipe, tokens: int) -> int:
    """Return the bytes that the backward pass of one layer's attention works with.

    In a fixed order FlashAttention adds up the gradient of the queries in fp32 once for each of its
    splits, and makes as many as fill the card's multiprocessors, so few long records need the most.
    """
    records = max(1, tokens // recipe.longest_record)
    splits = -(-MAX_MULTIPROCESSORS // (records * dimensions.num_heads))
    kinds = dimensions.layer_kinds
    queries = max(kind.num_queries for kind in kinds)
    keys = max(kind.num_keys for kind in kinds)
    width = -(-queries // dimensions.num_heads // HEAD_BLOCK) * HEAD_BLOCK
    # bf16: the gradients of the output, of queries, of keys and values for each head of queries and
    # then for each of their own, and of the layer's sum.
    others = 4 * queries + 2 * keys + dimensions.hidden_size
    return tokens * (4 * splits * dimensions.num_heads * width + 2 * others)
