"""The number of sequences of texts longer than one, and of the tokens that they read."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from falqon_core.contract.config import Recipe
from falqon_core.contract.inspection import OverlapCount
from falqon_core.estimate.estimate import CHARACTERS_PER_TOKEN

# The mean of all lengths with the same number of bits, in units of the least, where none is more
# frequent.
MEAN_LENGTH = 1 / math.log(2)


class EpochAmount(NamedTuple):
    """Examples and tokens of a file in an epoch; a step counts examples."""

    num_examples: int
    num_tokens: int


def amount_from_lengths(
    text_lengths: Mapping[int, int], num_tokens: int, recipe: Recipe
) -> EpochAmount:
    """Estimate the amount of texts whose lengths in characters are known by their bits only.
    `num_tokens`: each of them read once.
    """
    overlap = recipe.text_overlap_tokens or 0
    stride = recipe.max_seq_length - overlap
    num_later = 0
    for num_bits, num_records in text_lengths.items():
        num_left = _num_tokens(num_bits) - recipe.max_seq_length
        num_later += num_records * max(0, math.ceil(num_left / stride))
    num_examples = sum(text_lengths.values()) + num_later
    return EpochAmount(num_examples, num_tokens + overlap * num_later)


def amount_with_overlap(counts: Sequence[OverlapCount], overlap: int) -> EpochAmount:
    """Return the amount counted for this overlap, or one between those of the next smaller and the
    next larger overlap, where the true amount lies. `counts`: by rising overlap, from 0 to the
    largest that a recipe may have.
    """
    index = bisect_left(counts, overlap, key=lambda count: count.text_overlap_tokens)
    above = counts[index]
    below = counts[max(0, index - 1)]
    width = above.text_overlap_tokens - below.text_overlap_tokens
    share = (above.text_overlap_tokens - overlap) / max(1, width)
    return EpochAmount(
        round(above.sequences - share * (above.sequences - below.sequences)),
        round(above.tokens_per_epoch - share * (above.tokens_per_epoch - below.tokens_per_epoch)),
    )


def _num_tokens(num_bits: int) -> float:
    least = math.ldexp(1.0, num_bits - 1)
    return max(1.0, MEAN_LENGTH * least / CHARACTERS_PER_TOKEN)
