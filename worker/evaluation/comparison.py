"""Means with their standard errors, and whether a model differs from the base on the same rows.

The test is the sign-flip (paired randomisation) test: were there no difference, each row's
difference would be as likely with the other sign. It assumes nothing of how scores are
distributed. Of several comparisons none is corrected for the others.
"""

import random
from collections.abc import Callable, Sequence
from math import sqrt
from statistics import fmean, stdev

from app.models.evaluation import (
    AnswerScores,
    Difference,
    EvaluationPlan,
    EvaluationResult,
    GraderScore,
    ModelScores,
    RivalComparison,
    RivalScore,
    Verdict,
)

NUM_FLIPS = 2_000
SIGNIFICANCE_LEVEL = 0.05
ROUNDING_ERROR = 1e-12


def compare(
    plan: EvaluationPlan, scores: AnswerScores, heartbeat: Callable[[], None]
) -> EvaluationResult:
    """Compare on the rows that every model has answered; there is one. `heartbeat` is called before
    each test, which takes up to a second.
    """
    columns = [scores.by_model[model.model] for model in plan.models]
    answered = [row for row in zip(*columns, strict=True) if None not in row]
    models = []
    for m, model in enumerate(plan.models):
        graded = []
        for g, grader in enumerate(plan.graders):
            heartbeat()
            own = [row[m][g] for row in answered]
            base = [row[0][g] for row in answered]
            graded.append(
                GraderScore(
                    grader=grader.name,
                    mean=fmean(own),
                    standard_error=standard_error(own),
                    difference=difference(own, base) if m else None,
                )
            )
        models.append(ModelScores(**model.model_dump(), scores=graded))
    num_rows = len(columns[0])
    return EvaluationResult(
        rows=len(answered),
        rows_left_out=num_rows - len(answered),
        models=models,
        rivals=[_compare_with_rival(plan, answered, rival, heartbeat) for rival in plan.rivals],
    )


def _compare_with_rival(
    plan: EvaluationPlan,
    answered: Sequence[Sequence[list[float]]],
    rival: str,
    heartbeat: Callable[[], None],
) -> RivalComparison:
    r = [model.model for model in plan.models].index(rival)
    scores = []
    for g, grader in enumerate(plan.graders):
        heartbeat()
        own = [row[-1][g] for row in answered]
        others = [row[r][g] for row in answered]
        scores.append(
            RivalScore(
                grader=grader.name,
                mean=fmean(own),
                rival_mean=fmean(others),
                difference=difference(own, others),
            )
        )
    return RivalComparison(rival=rival, scores=scores)


def standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return stdev(values) / sqrt(len(values))


def difference(own: Sequence[float], base: Sequence[float]) -> Difference:
    differences = [a - b for a, b in zip(own, base, strict=True)]
    mean = fmean(differences)
    p_value = sign_flip_p_value(differences)
    verdict: Verdict = "no_clear_difference"
    if p_value < SIGNIFICANCE_LEVEL:
        verdict = "better" if mean > 0 else "worse"
    return Difference(
        mean=mean, standard_error=standard_error(differences), p_value=p_value, verdict=verdict
    )


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Return the share of random signs whose sum is as far from 0; the same in each call."""
    nonzero = [value for value in differences if value]
    observed = abs(sum(nonzero)) - ROUNDING_ERROR
    chance = random.Random(0)
    num_as_far = 0
    for _ in range(NUM_FLIPS):
        signs = chance.choices((-1, 1), k=len(nonzero))
        total = sum(sign * value for sign, value in zip(signs, nonzero, strict=True))
        num_as_far += abs(total) >= observed
    return (1 + num_as_far) / (1 + NUM_FLIPS)
