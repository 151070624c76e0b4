"""The answer to "is it better?" in words, the same on the pages, the command line and the API."""

from typing import NamedTuple

from app.models.evaluation import Difference, EvaluationResult, GraderScore, Verdict
from app.models.job_verdict import JobVerdict

LEAST_P_VALUE = 0.001  # smaller ones are said to be below it
WORDS: dict[Verdict, str] = {
    "better": "Better than the base",
    "worse": "Worse than the base",
    "no_clear_difference": "No clear difference from the base",
}
SHORT_WORDS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "no_clear_difference": "no clear difference",
}


class _Comparison(NamedTuple):
    base: GraderScore
    model: GraderScore
    difference: Difference | None  # None: there is only the base


def summarise(result: EvaluationResult) -> str:
    """Compare the last model with the base in a sentence."""
    base, model, difference = _compare(result)
    if difference is None:
        return f"{base.mean:.2f} by {base.grader} ({_rows(result)})."
    return (
        f"{WORDS[difference.verdict]}: {model.mean:.2f} against {base.mean:.2f} by "
        f"{model.grader} ({describe_evidence(result, difference)})."
    )


def verdict_of(evaluation_id: str, result: EvaluationResult) -> JobVerdict | None:
    """Return the verdict on the last model; None where that is the base."""
    base, model, difference = _compare(result)
    if difference is None:
        return None
    short = f"{SHORT_WORDS[difference.verdict]}: {_percent(model)} vs {_percent(base)}"
    return JobVerdict(
        evaluation_id=evaluation_id,
        verdict=difference.verdict,
        sentence=summarise(result),
        short=short,
    )


def describe_evidence(result: EvaluationResult, difference: Difference) -> str:
    return f"{_rows(result)}, {describe_p_value(difference)}"


def deciding_grader(result: EvaluationResult) -> int:
    """Return the place of the first grader that gave the last model or the base anything."""
    pairs = zip(result.models[0].scores, result.models[-1].scores, strict=True)
    return next((number for number, pair in enumerate(pairs) if any(s.mean for s in pair)), 0)


def describe_p_value(difference: Difference) -> str:
    if difference.p_value < LEAST_P_VALUE:
        return f"p < {LEAST_P_VALUE}"
    return f"p = {difference.p_value:.3f}"


def _compare(result: EvaluationResult) -> _Comparison:
    """Compare the last model with the base, which comes first, by the deciding grader."""
    base, model = (result.models[at].scores[deciding_grader(result)] for at in (0, -1))
    return _Comparison(base, model, model.difference)


def _percent(score: GraderScore) -> str:
    return f"{100 * score.mean:.0f} %"


def _rows(result: EvaluationResult) -> str:
    return "1 row" if result.rows == 1 else f"{result.rows:,} rows"
