"""Rounding of activations to FP8, as a card rounds them that serves the model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from falqon_core.meld.packed_weight import PackedWeight


def rounds_activations(model: nn.Module) -> bool:
    """Return True where some linear of `model` rounds the activations that it reads to e4m3."""
    return any(weight.rounds_activations for weight in _packed_weights(model))


@contextmanager
def rounded_activations(model: nn.Module) -> Iterator[None]:
    """Round what every FP8 linear of `model` reads, [T, I] by token, for passes without
    gradients.
    """
    before = {weight: weight.rounds_activations for weight in _packed_weights(model)}
    try:
        for weight in before:
            weight.rounds_activations = True
        yield
    finally:
        for weight, rounded in before.items():
            weight.rounds_activations = rounded


def _packed_weights(model: nn.Module) -> list[PackedWeight]:
    return [module for module in model.modules() if isinstance(module, PackedWeight)]
