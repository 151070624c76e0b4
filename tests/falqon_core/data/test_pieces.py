import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError
from falqon_core.contract.inspection import OverlapCount
from falqon_core.data import pieces
from falqon_core.data.dataset import Dataset, load_dataset
from falqon_core.data.pieces import count_overlaps, split_text
from falqon_core.data.sequences import TokenSequence

LONG = " ".join(f"word{number}" for number in range(60))


def text(num_tokens: int, num_begin: int) -> TokenSequence:
    """Tokens that are all different, of which the first are those of any text."""
    mask = np.arange(num_tokens) >= max(1, num_begin)
    return TokenSequence(np.arange(num_tokens, dtype=np.int32), mask)


def write(path: Path, *texts: str) -> Path:
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return path


@pytest.mark.parametrize("num_begin", [0, 1, 2])
@pytest.mark.parametrize("overlap", [0, 1, 4])
@pytest.mark.parametrize("length", [9, 10, 14, 15, 16, 100])
def test_each_token_is_learned_once_after_what_precedes_it(
    num_begin: int, overlap: int, length: int
) -> None:
    whole = text(length, num_begin)
    parts = split_text(whole, num_begin, 8, overlap)
    assert len(parts) > 1
    learned = np.concatenate([part.input_ids[part.loss_mask] for part in parts])
    assert learned.tolist() == whole.input_ids[whole.loss_mask].tolist()
    begin = whole.input_ids[:num_begin].tolist()
    for before, part in pairwise(parts):
        first = int(part.loss_mask.argmax())
        assert first - num_begin == max(overlap, 1 - num_begin)
        assert part.loss_mask[first:].all()
        read = begin + before.input_ids[len(before) - first + num_begin :].tolist()
        assert part.input_ids[:first].tolist() == read
    assert [len(part) for part in parts[:-1]] == [8] * (len(parts) - 1)
    assert len(parts[-1]) <= 8


@pytest.mark.parametrize("num_begin", [0, 1, 2])
@pytest.mark.parametrize("max_length", [8, 20, 64])
def test_pieces_are_counted_for_every_overlap(num_begin: int, max_length: int) -> None:
    lengths = np.array([3, 8, 9, 20, 21, 64, 65, 100, 191, 500])
    whole = [split_text(text(length, num_begin), num_begin, max_length, 0) for length in lengths]
    sequences = [part for parts in whole for part in parts]
    without = OverlapCount(
        text_overlap_tokens=0, sequences=len(sequences), tokens_per_epoch=sum(map(len, sequences))
    )
    counts = count_overlaps(lengths, num_begin, max_length, without)
    assert counts[0] == without
    assert counts[-1].text_overlap_tokens == max_length // 2
    for count in counts:
        overlap = count.text_overlap_tokens
        parts = [
            part
            for length in lengths
            for part in split_text(text(length, num_begin), num_begin, max_length, overlap)
        ]
        assert (count.sequences, count.tokens_per_epoch) == (len(parts), sum(map(len, parts)))


def test_a_text_that_fits_stays_whole() -> None:
    whole = text(8, 1)
    assert split_text(whole, 1, 8, 4) == [whole]


@pytest.mark.parametrize("num_begin", [0, 4, 8])
def test_more_pieces_than_a_record_may_have_are_refused(
    monkeypatch: pytest.MonkeyPatch, num_begin: int
) -> None:
    monkeypatch.setattr(pieces, "MAX_PIECES", 3)
    with pytest.raises(DatasetError, match="becomes more than 3 sequences of 8; raise max_seq"):
        split_text(text(40, num_begin), num_begin, 8, 4)


def load(path: Path, tokenizer: PreTrainedTokenizerBase, overlap: int | None) -> Dataset:
    return load_dataset(path, tokenizer, 32, text_overlap_tokens=overlap)


@pytest.mark.parametrize("overlap", [0, 8])
def test_long_texts_of_a_file_become_several_sequences(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase, overlap: int
) -> None:
    path = write(tmp_path / "train.jsonl", "Short.", LONG, "Short, too.", LONG * 2)
    whole = load_dataset(path, unmarked, 4096)
    data = load(path, unmarked, overlap)
    assert whole.num_records == data.num_records == len(whole.sequences) == 4
    assert data.num_truncated == 0
    for number, sequence in enumerate(whole.sequences, 1):
        indices = np.flatnonzero(data.record_numbers == number)
        parts = [data.sequences[index] for index in indices.tolist()]
        learned = [
            part.input_ids[part.loss_mask] for part in parts if isinstance(part, TokenSequence)
        ]
        assert isinstance(sequence, TokenSequence)
        assert np.concatenate(learned).tolist() == sequence.input_ids[sequence.loss_mask].tolist()
        assert len(parts) == 1 if len(sequence) <= 32 else len(parts) >= len(sequence) / 32


def test_a_record_is_held_out_with_all_its_sequences(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "train.jsonl", *[LONG, "Short."] * 5)
    data = load(path, unmarked, 0)
    train, held_out = data.split(0.3, seed=1)
    assert (train.num_records, held_out.num_records) == (7, 3)
    assert not set(train.record_numbers) & set(held_out.record_numbers)
    assert len(train.sequences) + len(held_out.sequences) == len(data.sequences)


def test_a_text_that_is_cut_keeps_its_beginning(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "train.jsonl", LONG)
    (cut,) = load(path, unmarked, None).sequences
    first, *_ = load(path, unmarked, 0).sequences
    assert isinstance(cut, TokenSequence)
    assert isinstance(first, TokenSequence)
    assert cut.input_ids.tolist() == first.input_ids.tolist()
