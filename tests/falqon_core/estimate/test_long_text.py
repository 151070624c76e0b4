import math
import random

import pytest

from falqon_core.contract.config import Recipe
from falqon_core.contract.inspection import OverlapCount
from falqon_core.estimate.estimate import CHARACTERS_PER_TOKEN
from falqon_core.estimate.long_text import EpochAmount, amount_from_lengths, amount_with_overlap
from falqon_core.records.file_check import FileReport, check_file

COUNTS = [
    OverlapCount(text_overlap_tokens=overlap, sequences=sequences, tokens_per_epoch=tokens)
    for overlap, sequences, tokens in ((0, 10, 100), (8, 12, 116), (16, 20, 260))
]


def report_of(lengths: list[int]) -> FileReport:
    return check_file(b'{"text": "%s"}' % (b"a" * length) for length in lengths)


@pytest.mark.parametrize("share", [0, 1 / 4, 1 / 2])
@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0])
def test_sequences_are_estimated_from_the_lengths_of_texts(spread: float, share: float) -> None:
    chance = random.Random(1)
    lengths = [round(chance.lognormvariate(7.0, spread)) + 1 for _ in range(500)]
    report = report_of(lengths)
    assert sum(report.text_lengths.values()) == 500
    for max_seq_length in (64, 512, 4096):
        overlap = int(share * max_seq_length)
        stride = max_seq_length - overlap
        num_later = sum(
            max(0, math.ceil((each / CHARACTERS_PER_TOKEN - max_seq_length) / stride))
            for each in lengths
        )
        recipe = Recipe(max_seq_length=max_seq_length, text_overlap_tokens=overlap)
        estimated = amount_from_lengths(report.text_lengths, 1000, recipe)
        assert estimated.num_examples == pytest.approx(500 + num_later, rel=0.35)
        assert estimated.num_tokens == 1000 + overlap * (estimated.num_examples - 500)


def test_only_text_records_have_lengths() -> None:
    assert check_file([b'{"prompt": "a", "completion": "b"}']).text_lengths == {}
    assert amount_from_lengths({}, 7, Recipe(text_overlap_tokens=64)) == EpochAmount(0, 7)
    assert FileReport.model_validate_json(report_of([1, 2, 3]).model_dump_json()).text_lengths == {
        1: 1,
        2: 2,
    }


@pytest.mark.parametrize(
    ("overlap", "amount"),
    [(0, (10, 100)), (4, (11, 108)), (8, (12, 116)), (10, (14, 152)), (16, (20, 260))],
)
def test_an_uncounted_overlap_is_interpolated_between_counted_ones(
    overlap: int, amount: tuple[int, int]
) -> None:
    assert amount_with_overlap(COUNTS, overlap) == EpochAmount(*amount)
