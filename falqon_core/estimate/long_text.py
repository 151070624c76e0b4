"""How many sequences texts longer than one become, and how many tokens these read in all."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from falqon_core.contract.config import Recipe
from falqon_core.contract.inspection import OverlapCount
from falqon_core.estimate.estimate import CHARACTERS_PER_TOKEN

# of all lengths with the same number of bits, where none is more frequent, in units of the least
MEAN_LENGTH = 1 / math.log(2)


class Amount(NamedTuple):
    """What a file comes to in an epoch. `num_examples`: what a step counts."""

    num_examples: int
    num_tokens: int


def amount_from_lengths(text_lengths: Mapping[int, int], num_tokens: int, recipe: Recipe) -> Amount:
    """Estimate what texts come to, of which only the bits of their lengths in characters are known.
    `num_tokens`: each of them read once.
    """
    overlap = recipe.text_overlap_tokens or 0
    stride = recipe.max_seq_length - overlap
    num_later = 0
    for num_bits, num_records in text_lengths.items():
        num_left = _num_tokens(num_bits) - recipe.max_seq_length
        num_later += num_records * max(0, math.ceil(num_left / stride))
    num_examples = sum(text_lengths.values()) + num_later
    return Amount(num_examples, num_tokens + overlap * num_later)


def amount_with_overlap(counts: Sequence[OverlapCount], overlap: int) -> Amount:
    """Return what was counted for this overlap, or what lies between the counts of the next smaller
    and the next larger one, as the true amount does. `counts`: by rising overlap, from 0 to the
    largest that a recipe may have.
    """
    index = bisect_left(counts, overlap, key=lambda count: count.text_overlap_tokens)
    above = counts[index]
    below = counts[max(0, index - 1)]
    width = above.text_overlap_tokens - below.text_overlap_tokens
    share = (above.text_overlap_tokens - overlap) / max(1, width)
    return Amount(
        round(above.sequences - share * (above.sequences - below.sequences)),
        round(above.tokens_per_epoch - share * (above.tokens_per_epoch - below.tokens_per_epoch)),
    )


def _num_tokens(num_bits: int) -> float:
    least = math.ldexp(1.0, num_bits - 1)
    return max(1.0, MEAN_LENGTH * least / CHARACTERS_PER_TOKEN)
