"""Which answers stand beside the expected ones, and how much of each."""

from app.models import EvaluationAnswer
from app.models.evaluation import AnswerScores, EvaluatedModel, EvaluationPlan
from app.models.graders import StringCheck
from worker.evaluation.examples import MAX_CHARACTERS, choose_examples, examples_of, shorten

PLAN = EvaluationPlan(
    graders=[StringCheck(type="string_check", name="same", operation="eq")],
    models=[EvaluatedModel(model="a", role="base"), EvaluatedModel(model="b", role="result")],
    max_rows=9,
    max_tokens=9,
)


def chosen(*scores: float | None) -> tuple[list[int], list[int]]:
    """`None`: the base was refused."""
    of_base = [None if score is None else [1.0, 1.0] for score in scores]
    of_model = [[0.0, score or 0.0] for score in scores]
    return choose_examples(PLAN, AnswerScores(by_model={"a": of_base, "b": of_model}))


def test_three_of_each_end_are_chosen_by_all_graders_in_turn() -> None:
    best, worst = chosen(0.5, 0.9, 0.4, 0.1, 0.6, 0.9, 0.3, 0.2, None)
    assert best == [1, 5, 4]
    assert worst == [3, 7, 6]


def test_no_answer_is_among_the_best_and_the_worst() -> None:
    assert chosen(0.1, 0.2, 0.3, 0.4) == ([3, 2, 1], [0])


def test_an_answer_stands_beside_that_of_the_base_unless_nothing_was_stored() -> None:
    texts = {"prompt": "Two?", "expected": "four", "base_answer": "five", "answer": "four"}
    answer = EvaluationAnswer(evaluation_id="eval-x", number=1, line=7, **texts)
    (example,) = examples_of([0, 1], {1: answer}, [[0.0], [1.0]])
    assert example.model_dump() == texts | {"line": 7, "scores": [1.0]}


def test_texts_are_cut_and_fit_into_a_database() -> None:
    assert shorten("x" * 5_000) == "x" * MAX_CHARACTERS + "…"
    assert shorten("a\0b\ud800") == "a\ufffdb?"
