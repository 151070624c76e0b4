"""The answer to "is it better?" in one sentence, the same on the page, the command line and the
API."""

from app.models.evaluation import Difference, EvaluationResult, GraderScore

LEAST_P_VALUE = 0.001  # smaller ones are said to be below it
WORDS = {
    "better": "Better than the base",
    "worse": "Worse than the base",
    "no_clear_difference": "No clear difference from the base",
}


def summarise(result: EvaluationResult) -> str:
    """Compare the last model with the base, which comes first, by the first grader."""
    base, model = result.models[0].scores[0], result.models[-1].scores[0]
    if model.difference is None:  # There is only the base.
        return f"{_mean(base)} by {base.grader} ({_rows(result)})."
    return (
        f"{WORDS[model.difference.verdict]}: {_mean(model)} against {_mean(base)} by "
        f"{model.grader} ({_rows(result)}, {_p_value(model.difference)})."
    )


def _mean(score: GraderScore) -> str:
    return f"{score.mean:.2f}"


def _rows(result: EvaluationResult) -> str:
    return "1 row" if result.rows == 1 else f"{result.rows:,} rows"


def _p_value(difference: Difference) -> str:
    if difference.p_value < LEAST_P_VALUE:
        return f"p < {LEAST_P_VALUE}"
    return f"p = {difference.p_value:.3f}"
