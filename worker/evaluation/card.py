"""The results of an evaluation, as a file that is downloaded with the model. The model card itself
stays as it is: the certificate vouches for its bytes."""

from collections.abc import Iterator

from app.models.evaluation import EvaluationPlan, EvaluationResult, GraderScore

CARD_NAME = "EVALUATION.md"
VERDICTS = {
    "better": "better than base",
    "worse": "**worse than base**",
    "no_clear_difference": "no clear difference",
}


def write_card(plan: EvaluationPlan, result: EvaluationResult) -> str:
    lines = "\n".join(_lines(result))
    left_out = f", {result.rows_left_out} were too long" if result.rows_left_out else ""
    return f"""# Evaluation

Each model answered the same {result.rows} held-out rows{left_out}, with at most {plan.max_tokens}
tokens and temperature 0. Means with their standard errors; p is that of a two-sided sign-flip test
of the rows' differences to the base.

| model | grader | mean | above base | p | |
|---|---|---:|---:|---:|---|
{lines}
"""


def _lines(result: EvaluationResult) -> Iterator[str]:
    for model in result.models:
        for score in model.scores:
            cells = (model.model, score.grader, *_figures(score))
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _figures(score: GraderScore) -> tuple[str, ...]:
    mean = _with_error(f"{score.mean:.3f}", score.standard_error)
    difference = score.difference
    if difference is None:
        return mean, "", "", "base"
    above = _with_error(f"{difference.mean:+.3f}", difference.standard_error)
    return mean, above, f"{difference.p_value:.3f}", VERDICTS[difference.verdict]


def _with_error(figure: str, error: float | None) -> str:
    return figure if error is None else f"{figure} ± {error:.3f}"
