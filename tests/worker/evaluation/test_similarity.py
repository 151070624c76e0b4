"""The oracle of the longest common subsequence is the table of the textbook; the figures of rouge
are those of `rouge_score` 0.1.2, those of `fuzzy_match` of rapidfuzz 3.14 (`fuzz.ratio` / 100).
"""

import random

import pytest

from worker.evaluation.similarity import MAX_CHARACTERS, fuzzy_match, rouge_l, rouge_n

FOX = "The quick brown fox jumps over the lazy dog."
DOG = "A quick dog jumped over the lazy, brown fox!"


def lcs(first: str, second: str) -> int:
    above = [0] * (len(second) + 1)
    for a in first:
        row = [0]
        for i, b in enumerate(second):
            row.append(above[i] + 1 if a == b else max(above[i + 1], row[i]))
        above = row
    return above[-1]


@pytest.mark.parametrize("seed", range(20))
def test_fuzzy_match_is_the_ratio_of_the_longest_common_subsequence(seed: int) -> None:
    chance = random.Random(seed)
    first, second = ("".join(chance.choices("abcä", k=chance.randrange(1, 90))) for _ in "12")
    assert fuzzy_match(first, second) == pytest.approx(
        2 * lcs(first, second) / (len(first) + len(second))
    )


def test_similarity_scores_equal_those_of_the_libraries() -> None:
    assert fuzzy_match(FOX, DOG) == pytest.approx(0.6590909, abs=1e-6)
    assert rouge_n(FOX, DOG, 1) == pytest.approx(0.7777777, abs=1e-6)
    assert rouge_n(FOX, DOG, 2) == pytest.approx(0.375, abs=1e-6)
    assert rouge_l(FOX, DOG) == pytest.approx(0.4444444, abs=1e-6)


def test_empty_and_equal_texts_have_scores_of_zero_and_one() -> None:
    assert fuzzy_match("", "") == fuzzy_match(FOX, FOX) == rouge_l(FOX, FOX) == 1
    assert fuzzy_match("", FOX) == rouge_l("", FOX) == rouge_n("one", "one", 2) == 0


def test_of_a_long_text_the_beginning_is_compared() -> None:
    long = "x" * MAX_CHARACTERS
    assert fuzzy_match(long + "y" * 10**6, long) == 1
