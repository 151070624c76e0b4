"""Similarity of two texts, between 0 and 1.

`fuzzy_match` is rapidfuzz's `fuzz.ratio`: twice the longest common subsequence of characters, in
parts of both lengths. `rouge_n` and `rouge_l` are the F1 of Google's `rouge_score` without its
stemmer: words are runs of ASCII letters and digits in lower case.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence

WORD_PATTERN = re.compile(r"[a-z0-9]+")
# Limit of each text; a longer one is compared by its beginning, as the work grows with both
# lengths.
MAX_CHARACTERS = 10_000


def fuzzy_match(answer: str, reference: str) -> float:
    answer, reference = answer[:MAX_CHARACTERS], reference[:MAX_CHARACTERS]
    if not answer and not reference:
        return 1.0
    return 2 * _common_length(answer, reference) / (len(answer) + len(reference))


def rouge_n(answer: str, reference: str, n: int) -> float:
    got, expected = _ngrams(_words(answer), n), _ngrams(_words(reference), n)
    return _f1((got & expected).total(), got.total(), expected.total())


def rouge_l(answer: str, reference: str) -> float:
    got, expected = _words(answer), _words(reference)
    return _f1(_common_length(got, expected), len(got), len(expected))


def _words(text: str) -> list[str]:
    return WORD_PATTERN.findall(text[:MAX_CHARACTERS].lower())


def _ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _f1(num_common: int, num_found: int, num_expected: int) -> float:
    if num_common == 0:
        return 0.0
    return 2 * num_common / (num_found + num_expected)


def _common_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the longest common subsequence, by Hyyrö's bit-parallel recurrence: one
    bit for each item of `second`, zero where the row of the table grows.
    """
    places: dict[Hashable, int] = {}
    for i, item in enumerate(second):
        places[item] = places.get(item, 0) | 1 << i
    mask = (1 << len(second)) - 1
    row = mask
    for item in first:
        matches = row & places.get(item, 0)
        row = (row + matches | row - matches) & mask
    return len(second) - row.bit_count()
