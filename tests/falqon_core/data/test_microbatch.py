import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.data.microbatch import IGNORED_LABEL, Microbatch, groups, microbatches
from falqon_core.data.sequences import Pair, SequenceGroup, TokenSequence


def sequence(length: int, first: int = 0) -> TokenSequence:
    mask = np.arange(length) % 3 != 0
    return TokenSequence(np.arange(first, first + length, dtype=np.int32), mask)


def test_packed_rows_restart_positions_and_never_predict_across_records() -> None:
    [batch] = microbatches([sequence(5, 100), sequence(3, 200)], 16, packing=True)

    assert batch.input_ids.tolist() == [[100, 101, 102, 103, 104, 200, 201, 202]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch.labels.tolist() == [
        [101, 102, IGNORED_LABEL, 104, IGNORED_LABEL, 201, 202, IGNORED_LABEL]
    ]
    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 5, 8]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.attention_mask is None
    assert (batch.num_tokens, batch.num_labels) == (8, 5)


def test_filled_rows_count_and_learn_nothing_more() -> None:
    sequences = [sequence(5, 100), sequence(3, 200)]
    [plain] = microbatches(sequences, 16, packing=True)
    [filled] = microbatches(sequences, 16, packing=True, multiple_of=6)

    assert filled.input_ids.tolist() == [[*plain.input_ids[0].tolist(), 0, 0, 0, 0]]
    assert filled.position_ids.tolist() == [[*plain.position_ids[0].tolist(), 0, 0, 0, 0]]
    assert filled.labels.tolist() == [[*plain.labels[0].tolist(), *[IGNORED_LABEL] * 4]]
    assert filled.cu_seqlens is not None
    assert filled.cu_seqlens.tolist() == [0, 5, 8, 12]
    assert filled.input_ids.dtype == filled.position_ids.dtype == filled.labels.dtype == torch.int64
    assert (filled.num_tokens, filled.num_labels) == (plain.num_tokens, plain.num_labels)


def test_a_full_row_is_not_filled() -> None:
    [batch] = microbatches([sequence(5), sequence(3)], 16, packing=True, multiple_of=4)

    assert batch.cu_seqlens is not None
    assert batch.cu_seqlens.tolist() == [0, 5, 8]


def test_padded_rows_are_masked_and_padding_is_no_token() -> None:
    [batch] = microbatches([sequence(2, 100), sequence(4, 200)], 16, packing=False)

    assert batch.input_ids.tolist() == [[200, 201, 202, 203], [100, 101, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    assert batch.labels.tolist() == [
        [201, 202, IGNORED_LABEL, IGNORED_LABEL],
        [101, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL],
    ]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.cu_seqlens is None
    assert (batch.num_tokens, batch.num_labels) == (6, 3)


@pytest.mark.parametrize("packing", [True, False])
@given(lengths=st.lists(st.integers(2, 32), min_size=1, max_size=40))
def test_every_token_and_label_arrives_once_within_the_limit(
    packing: bool, lengths: list[int]
) -> None:
    sequences = [sequence(length) for length in lengths]

    batches = microbatches(sequences, 32, packing)

    assert sum(batch.num_tokens for batch in batches) == sum(lengths)
    assert sum(batch.num_labels for batch in batches) == sum(
        int(record.loss_mask[1:].sum()) for record in sequences
    )
    assert all(batch.input_ids.numel() <= 32 for batch in batches)
    assert all(batch.num_labels == int((batch.labels != IGNORED_LABEL).sum()) for batch in batches)
    for batch in batches:
        expected = (batch.labels.flatten() != IGNORED_LABEL).nonzero().squeeze(1)
        assert torch.equal(batch.label_positions, expected)


def halves(batch: Microbatch) -> list[list[int]]:
    """The tokens of each sequence."""
    if batch.cu_seqlens is not None:
        return [
            part.tolist() for part in batch.input_ids[0].tensor_split(batch.cu_seqlens[1:-1].long())
        ]
    assert batch.attention_mask is not None
    return [
        row[real].tolist() for row, real in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


@pytest.mark.parametrize("packing", [True, False])
@given(lengths=st.lists(st.tuples(st.integers(2, 16), st.integers(2, 16)), min_size=1, max_size=20))
def test_the_halves_of_a_pair_stay_together_in_order(
    packing: bool, lengths: list[tuple[int, int]]
) -> None:
    pairs = [
        Pair(
            sequence(chosen, 1000 * number),
            sequence(rejected, 1000 * number + 500),
            (-number, -number - 0.5),
        )
        for number, (chosen, rejected) in enumerate(lengths)
    ]

    batches = microbatches(pairs, 32, packing)

    assert sorted(index for group in groups(pairs, 32, packing) for index in group) == list(
        range(len(pairs))
    )
    assert sum(batch.num_pairs for batch in batches) == len(pairs)
    for batch in batches:
        assert batch.input_ids.numel() <= 32
        assert batch.reference is not None
        answers = halves(batch)
        assert batch.label_counts == tuple(
            sum(index % 3 != 0 for index in range(len(half))) for half in answers
        )
        for chosen, rejected, reference in zip(
            answers[::2], answers[1::2], batch.reference.tolist(), strict=True
        ):
            number = chosen[0] // 1000
            assert chosen == list(pairs[number].chosen.input_ids)
            assert rejected == list(pairs[number].rejected.input_ids)
            assert reference == [-number, -number - 0.5]


def test_a_microbatch_moves_whole_and_says_its_longest_record() -> None:
    (packed,) = microbatches([sequence(5, 100), sequence(3, 200)], 16, packing=True)
    (padded,) = microbatches([sequence(5, 100), sequence(3, 200)], 16, packing=False)

    assert (packed.max_seqlen, padded.max_seqlen) == (5, None)
    for batch in (packed, padded):
        moved = batch.to(torch.device("meta"))
        tensors = {
            name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)
        }
        assert len(tensors) == 5
        assert {tensor.device.type for tensor in tensors.values()} == {"meta"}
        assert (moved.num_tokens, moved.num_labels) == (batch.num_tokens, batch.num_labels)


@pytest.mark.parametrize("packing", [True, False])
def test_the_sequences_of_one_record_share_a_step_and_no_more(packing: bool) -> None:
    group = SequenceGroup((sequence(10, 100), sequence(12, 200), sequence(3, 300)))
    items = [sequence(5, 400), group]

    batches = microbatches(items, 16, packing)

    assert (len(group), group.num_labels) == (25, sum(part.num_labels for part in group.sequences))
    assert sum(batch.num_tokens for batch in batches) == 30
    assert sum(batch.num_labels for batch in batches) == sum(item.num_labels for item in items)
    assert len(batches) > 1
