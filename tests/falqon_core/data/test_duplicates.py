import random

import numpy as np

from falqon_core.data.duplicates import (
    MAX_EXAMPLES,
    PIECE_CHARACTERS,
    SIGNATURE_SIZE,
    Fingerprints,
    duplicates,
    leakage,
    most_similar,
    signature,
)
from falqon_core.records.shapes import ChatMessage, ChatRecord, TextRecord


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(3, 9))) for _ in range(count)]


def jaccard(*texts: str) -> float:
    first, second = (
        {text[i : i + PIECE_CHARACTERS] for i in range(len(text) - PIECE_CHARACTERS + 1)}
        for text in texts
    )
    return len(first & second) / len(first | second)


def prints_of(*texts: str) -> Fingerprints:
    prints = Fingerprints()
    for line, text in enumerate(texts, 1):
        prints.add(line, TextRecord(text=text))
    return prints


def chat(question: str, system: str) -> ChatRecord:
    turns = (("system", system), ("user", question), ("assistant", "Yes."))
    return ChatRecord(messages=[ChatMessage(role=role, content=content) for role, content in turns])


def test_agreement_of_signatures_estimates_similarity() -> None:
    errors = []
    for seed in range(100):
        whole = words(seed, 120)
        edited = [*whole]
        for index in random.Random(seed).sample(range(120), seed // 4):
            edited[index] = "changed" + str(index)
        texts = (" ".join(whole), " ".join(edited))
        first, second = map(signature, texts)
        errors.append(float((first == second).mean()) - jaccard(*texts))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.08  # the standard error of 64 buckets is 0.0625 at the most


def test_signatures_ignore_case_and_white_space_and_take_any_text() -> None:
    assert np.array_equal(signature("Two and  two\nmake four"), signature("two and two make FOUR"))
    for text in ("a", "", "🙂" * 3, "x" * 200_000):
        assert signature(text).shape == (SIGNATURE_SIZE,)
    assert not np.array_equal(signature("first of all"), signature("second to none"))


def test_unrelated_texts_are_not_alike() -> None:
    signatures = np.stack([signature(" ".join(words(seed, 60))) for seed in range(500)])
    other, _ = most_similar(signatures)
    assert (other == -1).all()


def test_exact_and_near_copies_are_told_apart() -> None:
    base = " ".join(words(1, 80))
    report = duplicates(
        prints_of(base, " ".join(words(2, 80)), base + " indeed", base, base.upper())
    )
    assert [(copy.line, copy.like_line, copy.similarity) for copy in report.exact.examples] == [
        (4, 1, 1.0)
    ]
    near = {copy.line: (copy.like_line, copy.similarity) for copy in report.near.examples}
    assert near.keys() == {3, 5}
    assert near[5] == (1, 1.0)
    assert near[3][0] == 1
    assert near[3][1] >= report.near_threshold


def test_a_shared_system_prompt_makes_no_copies() -> None:
    prints = Fingerprints()
    system = " ".join(words(3, 400))
    for line in range(1, 6):
        prints.add(line, chat(" ".join(words(100 + line, 12)), system))
    prints.add(6, chat(" ".join(words(101, 12)), system="Another."))
    report = duplicates(prints)
    assert report.exact.records == 0
    assert [(copy.line, copy.like_line) for copy in report.near.examples] == [(6, 1)]


def test_many_copies_are_counted_and_few_are_shown() -> None:
    text = " ".join(words(5, 40))
    report = duplicates(prints_of(*[text] * 3000))
    assert (report.exact.records, report.near.records, len(report.exact.examples)) == (
        2999,
        0,
        MAX_EXAMPLES,
    )


def test_leaks_are_records_of_the_validation_file() -> None:
    texts = [" ".join(words(seed, 60)) for seed in range(20)]
    validation = prints_of(
        texts[3] + " so", "nothing of the kind was ever seen", texts[7], texts[3] + " so"
    )
    report = leakage(prints_of(*texts), validation)
    assert (report.validation_records, report.exact.records, report.near.records) == (4, 1, 2)
    assert [(copy.line, copy.like_line) for copy in report.exact.examples] == [(3, 8)]
    assert [(copy.line, copy.like_line) for copy in report.near.examples] == [(1, 4), (4, 4)]
    nothing = leakage(Fingerprints(), validation)
    assert (nothing.exact.records, nothing.near.records) == (0, 0)
