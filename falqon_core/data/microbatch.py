"""Tensors of forward passes, made of sequences: packed end to end in one row, or padded to one
length.

Labels are shifted here, once: `labels[b, t]` is the token that position t must predict, -100 where
there is no loss, so the model never predicts across records. Packed rows carry `cu_seqlens` and
positions that restart per record, which keep attention inside a record. Packed rows can be filled
up to a multiple of some length, so that kernels on GPUs get aligned sizes; the filling is a segment
of its own without labels. The halves of a pair stand one after the other in one microbatch, chosen
first, so that their loss can be computed there; other sequences of one record may be in several.
Padded batches (`packing=False`) are not filled up, and a pair's prompt is read twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from falqon_core.data.packing import pack
from falqon_core.data.sequences import Item, Pair, SequenceGroup, TokenSequence, sequences_of

IGNORED_LABEL = -100


@dataclass(frozen=True)
class Microbatch:
    """One forward pass of S sequences. `num_tokens` counts real tokens, `label_counts` per sequence
    the positions with loss.

    Packed: B = 1, `cu_seqlens` holds the n+1 boundaries of n segments, `attention_mask` is None. A
    last segment may be filling, with all its positions 0. Padded: `attention_mask` is True on real
    tokens (padding on the right), `cu_seqlens` is None. The positions of labels are computed here,
    on the CPU: reading them from a GPU would wait for it.
    """

    input_ids: torch.Tensor  # int64 [B, T]
    position_ids: torch.Tensor  # int64 [B, T]
    labels: torch.Tensor  # int64 [B, T]
    label_positions: torch.Tensor  # int64 [N], of the positions with loss in the flattened labels
    cu_seqlens: torch.Tensor | None  # int32 [n+1]
    attention_mask: torch.Tensor | None  # bool [B, T]
    num_tokens: int
    label_counts: tuple[int, ...]  # [S], in the order of the flattened labels
    # fp32 [S/2, 2], of pairs: the base's log-probabilities of (chosen, rejected)
    reference: torch.Tensor | None = None

    @property
    def num_labels(self) -> int:
        """Return the number of positions with loss."""
        return sum(self.label_counts)

    @property
    def num_pairs(self) -> int:
        """Count the pairs, when these are pairs."""
        return len(self.label_counts) // 2

    def to(self, device: torch.device) -> "Microbatch":
        """Return the same with every tensor on `device`; copies to a GPU are from pinned memory, so
        that the program does not wait for them.
        """
        tensors = {
            field.name: value
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        if device.type == "cuda":
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return replace(
            self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        )

    @property
    def max_seqlen(self) -> int | None:
        """Return the length of the longest packed record."""
        if self.cu_seqlens is None:
            return None
        return int(self.cu_seqlens.diff().max())


@dataclass(frozen=True)
class MicrobatchPlan:
    """The sequences that share each forward pass. Tensors, 24 bytes a token, are made on demand."""

    groups: list[list[Item]]
    packing: bool
    multiple_of: int

    def microbatch(self, index: int) -> Microbatch:
        """Return forward pass `index` as tensors on the CPU."""
        return collate(self.groups[index], self.packing, self.multiple_of)


def plan_microbatches(
    items: Sequence[Item], microbatch_tokens: int, packing: bool, multiple_of: int = 1
) -> MicrobatchPlan:
    """Put all `items`, each once, in forward passes of at most `microbatch_tokens` positions.

    Packed rows are filled up to a multiple of `multiple_of`, which may exceed `microbatch_tokens`
    when that is no multiple itself.
    """
    apart = [part for item in items for part in _parts(item)]
    shared = [
        [apart[index] for index in group] for group in groups(apart, microbatch_tokens, packing)
    ]
    return MicrobatchPlan(shared, packing, multiple_of)


def microbatches(
    items: Sequence[Item], microbatch_tokens: int, packing: bool, multiple_of: int = 1
) -> list[Microbatch]:
    """Return the forward passes of `plan_microbatches`, all of them made."""
    plan = plan_microbatches(items, microbatch_tokens, packing, multiple_of)
    return [plan.microbatch(index) for index in range(len(plan.groups))]


def _parts(item: Item) -> tuple[Item, ...]:
    """Return the parts that may stand in different forward passes: the halves of a pair may not."""
    return item.sequences if isinstance(item, SequenceGroup) else (item,)


def groups(items: Sequence[Item], microbatch_tokens: int, packing: bool) -> list[list[int]]:
    """Decide which `items` (by index) share a forward pass."""
    if packing:
        return pack([len(item) for item in items], microbatch_tokens)
    rows = max((len(sequences_of(item)) for item in items), default=1)
    lengths = [max(map(len, sequences_of(item))) for item in items]
    return list(_rectangles(lengths, microbatch_tokens // rows))


def collate(items: Sequence[Item], packing: bool, multiple_of: int = 1) -> Microbatch:
    """Make one forward pass of `items`; `multiple_of` as in `microbatches`."""
    sequences = [sequence for item in items for sequence in sequences_of(item)]
    references = [
        item.reference for item in items if isinstance(item, Pair) and item.reference is not None
    ]
    reference = torch.tensor(references, dtype=torch.float32) if references else None
    if packing:
        return _pack(sequences, reference, multiple_of)
    return _pad(sequences, reference)


def _shift_labels(sequence: TokenSequence) -> np.ndarray:
    labels = np.full(len(sequence), IGNORED_LABEL, dtype=np.int64)
    # Position t predicts token t + 1; the last position predicts nothing.
    labels[:-1] = np.where(sequence.loss_mask[1:], sequence.input_ids[1:], IGNORED_LABEL)
    return labels


def _label_positions(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(labels != IGNORED_LABEL))


def _pack(
    sequences: list[TokenSequence], reference: torch.Tensor | None, multiple_of: int
) -> Microbatch:
    lengths = [len(sequence) for sequence in sequences]
    filling = -sum(lengths) % multiple_of
    # Filling tokens restart positions at 0 and are a segment of their own in `cu_seqlens`.
    nothing = np.zeros(filling, dtype=np.int64)
    labels = [_shift_labels(sequence) for sequence in sequences]
    row = np.concatenate([*labels, np.full(filling, IGNORED_LABEL)])
    return Microbatch(
        input_ids=_row(np.concatenate([*(sequence.input_ids for sequence in sequences), nothing])),
        position_ids=_row(np.concatenate([*(np.arange(length) for length in lengths), nothing])),
        labels=_row(row),
        label_positions=_label_positions(row),
        cu_seqlens=torch.tensor(
            [0, *np.cumsum([*lengths, filling] if filling else lengths)], dtype=torch.int32
        ),
        attention_mask=None,
        num_tokens=sum(lengths),
        label_counts=tuple(int((row != IGNORED_LABEL).sum()) for row in labels),
        reference=reference,
    )


def _pad(sequences: list[TokenSequence], reference: torch.Tensor | None) -> Microbatch:
    shape = len(sequences), max(len(sequence) for sequence in sequences)
    input_ids = np.zeros(shape, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
    real = np.zeros(shape, dtype=bool)
    for row, sequence in enumerate(sequences):
        length = len(sequence)
        input_ids[row, :length] = sequence.input_ids
        position_ids[row, :length] = np.arange(length)
        labels[row, :length] = _shift_labels(sequence)
        real[row, :length] = True
    return Microbatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        labels=torch.from_numpy(labels),
        label_positions=_label_positions(labels),
        cu_seqlens=None,
        attention_mask=torch.from_numpy(real),
        num_tokens=int(real.sum()),
        label_counts=tuple((labels != IGNORED_LABEL).sum(1).tolist()),
        reference=reference,
    )


def _rectangles(lengths: list[int], capacity: int) -> Iterator[list[int]]:
    """Yield indices, long to short, in groups whose count times longest is within `capacity`."""
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
