"""The size of an adapter: elements of A and B, trained and frozen, and the inputs kept for
backward.
"""

from dataclasses import dataclass

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.estimate.dimensions import ModelDimensions


@dataclass(frozen=True)
class AdapterSize:
    """Numbers of elements: of A that stay as they are and the B beside them, of A that train and
    the B beside them, all layers together; and `kept_inputs`, the inputs of a token that one layer
    keeps for backward.
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
    size = AdapterSize()
    pooled = recipe.group_size or 1
    for group in dimensions.linear_groups:
        trains_a = recipe.trains_a_of(group.num_outputs, group.num_inputs)
        per_rank = dimensions.num_layers * recipe.rank
        a = per_rank * group.num_linears * (group.num_inputs // pooled)
        b = per_rank * group.num_outputs
        keeps_input = trains_a and METHOD_SPECS[recipe.method].keeps_inputs
        size = AdapterSize(
            frozen_a=size.frozen_a + (0 if trains_a else a),
            b_of_frozen=size.b_of_frozen + (0 if trains_a else b),
            trained_a=size.trained_a + (a if trains_a else 0),
            b_of_trained=size.b_of_trained + (b if trains_a else 0),
            kept_inputs=size.kept_inputs + (group.num_inputs if keeps_input else 0),
        )
    return size
