"""Share of a new model in the requests of a name, and the rule that ends it."""

from math import exp, gcd, lgamma
from typing import Literal

from app.models.alias import MAX_TARGETS, MAX_WEIGHT, AliasTarget, AliasTargets
from app.models.alias_switch import RequestCount

MIN_REQUESTS = 10  # of the new model, before failures count
SIGNIFICANCE_LEVEL = 0.01  # lower than that of an evaluation: it is tested again and again
NUM_ANSWERS = 100  # of the new model, after which it gets all requests


def has_room(before: AliasTargets, model_id: str) -> bool:
    return len(_without(before, model_id)) < MAX_TARGETS


def add_share(before: AliasTargets, model_id: str, percent: int) -> AliasTargets:
    """Return the targets with so many percent for a model; the others keep their proportions. The
    model comes first, so that a share that grows keeps its users.
    """
    others = _without(before, model_id)
    total = sum(target.weight for target in others)
    weights = [percent * total, *((100 - percent) * target.weight for target in others)]
    divisor = gcd(*weights)
    scale = max(divisor, max(weights) / MAX_WEIGHT)
    models = [model_id, *(target.model for target in others)]
    return AliasTargets(
        models=[
            AliasTarget(model=model, weight=max(1, int(weight / scale)))
            for model, weight in zip(models, weights, strict=True)
        ]
    )


def judge(new: RequestCount, old: RequestCount) -> Literal["fails", "holds"] | None:
    """Return the outcome of a canary by the requests since it began; None: more are needed."""
    if new.requests >= MIN_REQUESTS and p_value(new, old) < SIGNIFICANCE_LEVEL:
        return "fails"
    if new.requests - new.errors >= NUM_ANSWERS:
        return "holds"
    return None


def p_value(new: RequestCount, old: RequestCount) -> float:
    """Return the p-value of Fisher's exact test, one-sided: the chance that as many of all errors
    or more are of the new model, were its share of errors the same.
    """
    errors = new.errors + old.errors
    requests = new.requests + old.requests
    most = min(new.requests, errors)
    all_ways = _log_choose(requests, errors)
    return sum(
        exp(_log_choose(new.requests, k) + _log_choose(old.requests, errors - k) - all_ways)
        for k in range(new.errors, most + 1)
        if errors - k <= old.requests
    )


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _without(targets: AliasTargets, model_id: str) -> list[AliasTarget]:
    return [target for target in targets.models if target.model != model_id]
