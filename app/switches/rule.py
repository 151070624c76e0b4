"""The rule by which a model is not worse than those that a name stands for."""

from collections.abc import Iterator
from typing import NamedTuple

from app.evaluations.summary import describe_evidence
from app.models.evaluation import EvaluationResult, RivalScore

MIN_ROWS = 20  # Of fewer, a model that answers one in five worse would often pass.
MAX_DROP = 0.05  # in the mean of a grader, even where the test finds no difference


class Judgement(NamedTuple):
    passes: bool
    reason: str


class _Pair(NamedTuple):
    rival: str
    score: RivalScore


def judge(result: EvaluationResult) -> Judgement:
    """Judge the last model: by every grader its mean is at most `MAX_DROP` below that of each
    rival, and the test does not find it worse.
    """
    if result.rows < MIN_ROWS:
        rows = "1 row" if result.rows == 1 else f"{result.rows} rows"
        return Judgement(False, f"{rows} cannot tell; at least {MIN_ROWS} are needed")
    pairs = list(_pairs(result))
    worse = next((pair for pair in pairs if _is_worse(pair.score)), None)
    if worse is not None:
        return Judgement(False, f"the new model is worse than {_describe(worse, result)}")
    telling = next((pair for pair in pairs if pair.score.mean or pair.score.rival_mean), None)
    if telling is None:
        return Judgement(False, "no grader gave any of the models anything, which tells nothing")
    return Judgement(True, f"the new model is not worse than {_describe(telling, result)}")


def _pairs(result: EvaluationResult) -> Iterator[_Pair]:
    for comparison in result.rivals:
        for score in comparison.scores:
            yield _Pair(comparison.rival, score)


def _is_worse(score: RivalScore) -> bool:
    return score.difference.verdict == "worse" or score.difference.mean < -MAX_DROP


def _describe(pair: _Pair, result: EvaluationResult) -> str:
    score = pair.score
    return (
        f"{pair.rival}: {score.mean:.2f} against {score.rival_mean:.2f} by {score.grader} "
        f"({describe_evidence(result, score.difference)})"
    )
