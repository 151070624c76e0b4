"""Weights of answers, written as `weight` (0 or 1) or as `train` (true or false)."""

from collections.abc import Mapping
from typing import Any

from falqon_core.records.jsonl import Unusable


def weight_of(message: Mapping[str, Any], path: tuple[int | str, ...], *, is_answer: bool) -> Any:
    """Return the weight that `train` and `weight` of a message or a turn come to; None where both
    leave it as it is. Only an answer can be learned. Raises `Unusable`.
    """
    train, weight = message.get("train"), message.get("weight")
    if isinstance(weight, float):
        weight = whole_weight(weight, (*path, "weight"))
    if train is None:
        return weight
    if not isinstance(train, bool):
        text = "'train' says whether an answer is learned"
        raise Unusable((*path, "train"), text, "write true or false", "invalid_record")
    if not is_answer:
        if train:
            text = "only answers of the assistant are learned"
            raise Unusable((*path, "train"), text, "remove the field", "invalid_record")
        return weight or None
    if weight is not None and weight != int(train):
        text = "'train' and 'weight' contradict each other"
        raise Unusable((*path, "train"), text, "keep one of the two", "invalid_record")
    return None if train else 0


def whole_weight(weight: float, path: tuple[int | str, ...]) -> int:
    if weight in (0, 1):
        return int(weight)
    message = "a weight between 0 and 1 is not supported"
    raise Unusable(path, message, "write 0 or 1", "fractional_weight_not_supported")
