"""Which answers stand beside the expected ones, and how much of each."""

from app.models.evaluation import RankedAnswer
from worker.evaluation.examples import MAX_CHARACTERS, examples, rank, shorten
from worker.evaluation.rows import CHAT_PATH, EvaluationRow


def row(number: int) -> EvaluationRow:
    question = {"messages": [{"role": "user", "content": f"question {number}"}]}
    return EvaluationRow(number + 1, {"reference": {"is": number}}, CHAT_PATH, question)


def ranked(*scores: float) -> list[RankedAnswer]:
    kept: list[RankedAnswer] = []
    for number, score in enumerate(scores):
        answer = RankedAnswer(row=number, scores=[0.0, score], answer=f"answer {number}")
        kept = rank(kept, answer)
    return kept


def test_three_of_each_end_are_kept_by_all_graders_in_turn() -> None:
    kept = ranked(0.5, 0.9, 0.4, 0.1, 0.6, 0.9, 0.3, 0.2)
    best, worst = examples(kept, [row(n) for n in range(8)])
    assert [example.answer for example in best] == ["answer 1", "answer 5", "answer 4"]
    assert [example.answer for example in worst] == ["answer 3", "answer 7", "answer 6"]
    assert (best[0].line, best[0].prompt, best[0].expected) == (2, "question 1", '{"is": 1}')


def test_no_answer_is_among_the_best_and_the_worst() -> None:
    best, worst = examples(ranked(0.1, 0.2, 0.3, 0.4), [row(n) for n in range(4)])
    assert [[each.line for each in best], [each.line for each in worst]] == [[4, 3, 2], [1]]


def test_texts_are_cut_and_fit_into_a_database() -> None:
    assert shorten("x" * 5_000) == "x" * MAX_CHARACTERS + "…"
    assert shorten("a\0b\ud800") == "a\ufffdb?"
