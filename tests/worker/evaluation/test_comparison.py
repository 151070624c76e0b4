import random
from itertools import product
from statistics import fmean

import pytest

from app.models.evaluation import AnswerScores, EvaluatedModel, EvaluationPlan
from app.models.graders import StringCheck
from worker.evaluation.comparison import compare, difference, sign_flip_p_value, standard_error


def exact_p_value(differences: list[float]) -> float:
    observed = abs(sum(differences)) - 1e-12
    signs = product((-1, 1), repeat=len(differences))
    totals = [sum(s * d for s, d in zip(row, differences, strict=True)) for row in signs]
    return fmean(abs(total) >= observed for total in totals)


def plan(*models: str) -> EvaluationPlan:
    return EvaluationPlan(
        graders=[StringCheck(type="string_check", name="same", operation="eq")],
        models=[
            EvaluatedModel(model=model, role="result" if i else "base")
            for i, model in enumerate(models)
        ],
        max_rows=9,
        max_tokens=9,
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_is_that_of_all_flips(seed: int) -> None:
    chance = random.Random(seed)
    differences = [chance.choice((-1.0, 0.5, 1.0)) for _ in range(10)]
    assert sign_flip_p_value(differences) == pytest.approx(exact_p_value(differences), abs=0.04)


def test_no_difference_is_not_significant() -> None:
    assert sign_flip_p_value([0.0] * 50) == 1
    assert sign_flip_p_value([1.0, -1.0] * 25) == 1


def test_the_standard_error_is_that_of_the_mean() -> None:
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx(0.6454972, abs=1e-6)
    assert standard_error([1.0]) is None


def test_verdicts() -> None:
    low, high = [0.0] * 12, [1.0] * 12
    assert difference(high, low).verdict == "better"
    assert difference(low, high).verdict == "worse"
    assert difference([1.0, *low[1:]], low).verdict == "no_clear_difference"


def test_only_rows_answered_by_every_model_are_compared() -> None:
    scores = AnswerScores(by_model={"base": [[0.0], None, [1.0]], "mine": [[1.0], [1.0], [1.0]]})
    result = compare(plan("base", "mine"), scores, lambda: None)
    assert (result.rows, result.rows_left_out) == (2, 1)
    base, mine = (model.scores[0] for model in result.models)
    assert (base.mean, base.difference, mine.mean) == (0.5, None, 1.0)
    assert mine.difference is not None
    assert (mine.difference.mean, mine.difference.standard_error) == (0.5, 0.5)
