"""The rule by which a model is not worse, on scores that no engine has to be made to give."""

import pytest

from app.models.evaluation import AnswerScores, EvaluatedModel, EvaluationPlan
from app.switches import rule
from worker.evaluation.comparison import compare

BASE, OLD, NEW = "base", "old", "new"
GRADERS = [{"type": "string_check", "name": name, "operation": "eq"} for name in ("same", "close")]
PLAN = EvaluationPlan.model_validate(
    {
        "graders": GRADERS,
        "models": [
            EvaluatedModel(model=BASE, role="base"),
            EvaluatedModel(model=OLD, role="current"),
            EvaluatedModel(model=NEW, role="result"),
        ],
        "rivals": [OLD],
        "max_rows": 200,
        "max_tokens": 1,
    }
)


def column(num_right: int, count: int, close: float) -> list[list[float] | None]:
    return [[float(row < num_right), close] for row in range(count)]


@pytest.mark.parametrize(
    ("old", "new", "count", "passes"),
    [
        ((10, 0.5), (10, 0.5), 20, True),
        ((10, 0.5), (11, 0.5), 20, True),
        ((10, 0.5), (9, 0.5), 20, True),  # one answer of twenty
        ((10, 0.5), (8, 0.5), 20, False),  # a drop of 0.1, which the test does not find
        ((500, 0.5), (485, 0.5), 1000, False),  # a drop of 0.015, which the test finds
        ((10, 0.5), (18, 0.3), 20, False),  # better by one grader and worse by the other
        ((0, 0.0), (0, 0.0), 20, False),
        ((19, 0.5), (19, 0.5), 19, False),
    ],
)
def test_a_model_is_not_worse_by_its_mean_and_by_the_test(
    old: tuple[int, float], new: tuple[int, float], count: int, passes: bool
) -> None:
    by_model = {
        BASE: column(0, count, 0.0),
        OLD: column(old[0], count, old[1]),
        NEW: column(new[0], count, new[1]),
    }
    result = compare(PLAN, AnswerScores(by_model=by_model), lambda: None)
    assert rule.judge(result).passes is passes
