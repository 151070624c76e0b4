"""The size of an adapter: elements of A and B, trained and frozen, and the inputs kept for
backward.
"""

from dataclasses import dataclass, replace

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.layer_kinds import LayerKind


@dataclass(frozen=True)
class AdapterSize:
    """Numbers of elements: of A that stay as they are and the B beside them, of A that train and
    the B beside them, all layers together; and `kept_inputs`, the inputs of a token that one layer
    keeps for backward, at most.
    """

    frozen_a: int = 0
    b_of_frozen: int = 0
    trained_a: int = 0
    b_of_trained: int = 0
    kept_inputs: int = 0

    @property
    def trained(self) -> int:
        """Return the number of elements that train."""
        return self.trained_a + self.b_of_frozen + self.b_of_trained


def adapter_size(dimensions: ModelDimensions, recipe: Recipe) -> AdapterSize:
    """Return the size of the recipe's adapter on a model; its choice of linears is not
    considered.
    """
    size = AdapterSize(
        kept_inputs=max(num_kept_inputs(kind, recipe) for kind in dimensions.layer_kinds)
    )
    pooled = recipe.group_size or 1
    groups = [(kind, group) for kind in dimensions.layer_kinds for group in kind.linear_groups]
    for kind, group in groups:
        trains_a = recipe.trains_a_of(group.num_outputs, group.num_inputs)
        per_rank = kind.number * recipe.rank
        a = per_rank * group.num_linears * (group.num_inputs // pooled)
        b = per_rank * group.num_outputs
        size = replace(
            size,
            frozen_a=size.frozen_a + (0 if trains_a else a),
            b_of_frozen=size.b_of_frozen + (0 if trains_a else b),
            trained_a=size.trained_a + (a if trains_a else 0),
            b_of_trained=size.b_of_trained + (b if trains_a else 0),
        )
    return size


def num_kept_inputs(kind: LayerKind, recipe: Recipe) -> int:
    """Count the inputs of a token that a layer of this kind keeps for backward: those of linears
    whose A train.
    """
    if not METHOD_SPECS[recipe.method].keeps_inputs:
        return 0
    return sum(
        group.num_inputs
        for group in kind.linear_groups
        if recipe.trains_a_of(group.num_outputs, group.num_inputs)
    )
