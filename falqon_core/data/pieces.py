"""A text longer than a sequence becomes several, end to end.

Every piece begins as any text does, with the tokens that the tokenizer puts before one, and all but
the first with the last tokens of the piece before it, which are read and not learned. So each token
of the text is learned once, and only the last piece learns where the text ends. The pieces follow
from the text and the two numbers alone, in time linear in the text.
"""

import numpy as np

from falqon_core.contract.errors import DatasetError
from falqon_core.contract.inspection import OverlapCount
from falqon_core.data.sequences import TokenSequence

MAX_PIECES = 10_000  # Sequences that one record may become.
NUM_OVERLAPS = 17


def split_text(
    text: TokenSequence, num_begin_tokens: int, max_length: int, num_overlap_tokens: int
) -> list[TokenSequence]:
    """Return the pieces of at most `max_length` tokens. Raises `DatasetError` where they would be
    more than `MAX_PIECES`.
    """
    if len(text) <= max_length:
        return [text]
    begin = slice(0, num_begin_tokens)
    room = max_length - num_begin_tokens
    num_read = _num_read(num_begin_tokens, num_overlap_tokens)
    # Tokens that each piece but the last learns first.
    stride = room - num_read
    num_left = len(text) - num_begin_tokens - num_read
    if stride < 1 or num_left > MAX_PIECES * stride:
        raise DatasetError(
            f"a text of {len(text)} tokens becomes more than {MAX_PIECES} sequences of "
            f"{max_length}; raise max_seq_length, or write it as several records"
        )
    pieces = []
    for start in range(0, num_left, stride):
        part = slice(num_begin_tokens + start, num_begin_tokens + start + room)
        mask = np.concatenate([text.loss_mask[begin], text.loss_mask[part]])
        if start:
            mask[: num_begin_tokens + num_read] = False
        ids = np.concatenate([text.input_ids[begin], text.input_ids[part]])
        pieces.append(TokenSequence(ids, mask))
    return pieces


def count_overlaps(
    lengths: np.ndarray, num_begin_tokens: int, max_length: int, whole: OverlapCount
) -> list[OverlapCount]:
    """Return the sequences and tokens of texts with each of `NUM_OVERLAPS` overlaps, from 0 to half
    of `max_length`. `lengths`: of the whole texts; `whole`: the count without an overlap.
    """
    num_left = lengths[lengths > max_length] - max_length

    def num_later(overlap: int) -> int:
        num_read = _num_read(num_begin_tokens, overlap)
        stride = max(1, max_length - num_begin_tokens - num_read)
        return int(np.ceil(num_left / stride).sum())

    first = num_later(0)
    num_read_first = first * (num_begin_tokens + _num_read(num_begin_tokens, 0))
    counts = []
    for overlap in sorted({max_length * step // 32 for step in range(NUM_OVERLAPS)}):
        later = num_later(overlap)
        num_read = later * (num_begin_tokens + _num_read(num_begin_tokens, overlap))
        sequences = whole.sequences + later - first
        tokens = whole.tokens_per_epoch + num_read - num_read_first
        counts.append(
            OverlapCount(text_overlap_tokens=overlap, sequences=sequences, tokens_per_epoch=tokens)
        )
    return counts


def _num_read(num_begin_tokens: int, num_overlap_tokens: int) -> int:
    """Something has to predict the first token that a piece learns."""
    return max(num_overlap_tokens, 1 - num_begin_tokens)
