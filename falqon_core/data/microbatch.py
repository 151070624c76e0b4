"""Sequences become the tensors of forward passes: packed end to end in one row, or padded to one length.

Labels are shifted here, once: `labels[b, t]` is the token that position t must predict, -100 where there is no loss, so the
model never predicts across records. Packed rows carry `cu_seqlens` and positions that restart per record, which is what keeps
attention inside a record. Packed rows can be filled up to a multiple of some length, so that kernels and graphs on GPUs see few
shapes; what fills is a segment of its own without labels. What is given up: padded batches (`packing=False`) are not filled up.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch

from falqon_core.data.packing import pack
from falqon_core.data.sequences import Sequence

IGNORED = -100


@dataclass(frozen=True)
class Microbatch:
    """One forward pass. `num_tokens` counts real tokens, `num_labels` the positions with loss.

    Packed: B = 1, `cu_seqlens` holds the n+1 boundaries of n segments, `attention_mask` is None. A last segment may be filling, with
    all its positions 0.
    Padded: `attention_mask` is True on real tokens (padding on the right), `cu_seqlens` is None.
    """

    input_ids: torch.Tensor  # int64 [B, T]
    position_ids: torch.Tensor  # int64 [B, T]
    labels: torch.Tensor  # int64 [B, T]
    cu_seqlens: torch.Tensor | None  # int32 [n+1]
    attention_mask: torch.Tensor | None  # bool [B, T]
    num_tokens: int
    num_labels: int


def microbatches(sequences: Items[Sequence], microbatch_tokens: int, packing: bool, multiple_of: int = 1) -> list[Microbatch]:
    """All `sequences`, each once, in forward passes of at most `microbatch_tokens` positions.

    Packed rows are filled up to a multiple of `multiple_of`, which may exceed `microbatch_tokens` when that is no multiple itself.
    """
    lengths = [len(sequence) for sequence in sequences]
    if packing:
        return [_packed([sequences[index] for index in one], multiple_of) for one in pack(lengths, microbatch_tokens)]
    return [_padded([sequences[index] for index in one]) for one in _rectangles(lengths, microbatch_tokens)]


def _shifted_labels(sequence: Sequence) -> np.ndarray:
    labels = np.full(len(sequence), IGNORED, dtype=np.int64)
    labels[:-1] = np.where(sequence.loss_mask[1:], sequence.input_ids[1:], IGNORED)
    return labels


def _packed(sequences: list[Sequence], multiple_of: int) -> Microbatch:
    lengths = [len(sequence) for sequence in sequences]
    filling = -sum(lengths) % multiple_of
    labels = np.concatenate([*(_shifted_labels(sequence) for sequence in sequences), np.full(filling, IGNORED)])
    return Microbatch(
        input_ids=_row(np.concatenate([*(sequence.input_ids for sequence in sequences), np.zeros(filling, dtype=np.int64)])),
        position_ids=_row(np.concatenate([*(np.arange(length) for length in lengths), np.zeros(filling, dtype=np.int64)])),
        labels=_row(labels),
        cu_seqlens=torch.tensor([0, *np.cumsum([*lengths, filling] if filling else lengths)], dtype=torch.int32),
        attention_mask=None,
        num_tokens=sum(lengths),
        num_labels=int((labels != IGNORED).sum()),
    )


def _padded(sequences: list[Sequence]) -> Microbatch:
    shape = len(sequences), max(len(sequence) for sequence in sequences)
    input_ids, position_ids = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    labels, real = np.full(shape, IGNORED, dtype=np.int64), np.zeros(shape, dtype=bool)
    for row, sequence in enumerate(sequences):
        length = len(sequence)
        input_ids[row, :length] = sequence.input_ids
        position_ids[row, :length] = np.arange(length)
        labels[row, :length] = _shifted_labels(sequence)
        real[row, :length] = True
    return Microbatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        labels=torch.from_numpy(labels),
        cu_seqlens=None,
        attention_mask=torch.from_numpy(real),
        num_tokens=int(real.sum()),
        num_labels=int((labels != IGNORED).sum()),
    )


def _rectangles(lengths: list[int], capacity: int) -> Iterator[list[int]]:
    """Indices from long to short, in groups whose count times longest stays within `capacity`."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and lengths[group[0]] * (len(group) + 1) > capacity:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _row(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.int64))[None]
