"""Request of a clone: the original one with overrides merged in, as JSON Merge Patch (RFC 7396)
merges.

Some values have several places, in OpenAI's spelling and in the recipe's. An override of one of
them replaces the original's values in the others, or the two would contradict each other.
"""

from app.models.base import JsonObject
from app.models.job_request import JobRequest

_Place = tuple[str, ...]

_HYPERPARAMETERS: list[_Place] = [
    ("hyperparameters",),
    ("method", "supervised", "hyperparameters"),
    ("method", "dpo", "hyperparameters"),
]
_SYNONYMS: list[list[_Place]] = [
    *(
        [("falqon", ours), *((*place, theirs) for place in _HYPERPARAMETERS)]
        for ours, theirs in (
            ("num_epochs", "n_epochs"),
            ("batch_size", "batch_size"),
            ("learning_rate", "learning_rate_multiplier"),
        )
    ),
    [("falqon", "beta"), ("method", "dpo", "hyperparameters", "beta")],
    [("falqon", "seed"), ("seed",)],
    [("falqon", "early_stopping_patience"), ("falqon", "early_stopping")],
]


def merge_overrides(requested: JobRequest, overrides: JsonObject) -> JobRequest:
    """Merge objects, remove a field for null, and replace everything else. Raises pydantic's
    `ValidationError`.
    """
    original = requested.model_dump(mode="json", exclude_unset=True)
    for places in _SYNONYMS:
        if any(_at(overrides, place) is not None for place in places):
            for place in places:
                _take_away(original, place)
    return JobRequest.model_validate(_merge(original, overrides))


def _merge(original: JsonObject, patch: JsonObject) -> JsonObject:
    result = dict(original)
    for name, value in patch.items():
        before = result.pop(name, None)
        if isinstance(before, dict) and isinstance(value, dict):
            result[name] = _merge(before, value)
        elif value is not None:
            result[name] = value
    return result


def _at(request: JsonObject, place: _Place) -> object:
    value: object = request
    for name in place:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _take_away(request: JsonObject, place: _Place) -> None:
    inner = _at(request, place[:-1])
    if isinstance(inner, dict):
        inner.pop(place[-1], None)
