"""Models whose weights a recipe's blocks can hold."""

from falqon_core.contract.block_weights import block_refusal, title_of
from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions


def weights_refusal(dimensions: ModelDimensions, recipe: Recipe) -> str | None:
    """Return why the model cannot train with the weights of the recipe, and which it can; None
    where it can.
    """
    if recipe.weights == "fp8":
        return None
    if dimensions.experts is not None:
        return (
            "the experts of a mixture are frozen in FP8, and one model has one form, not "
            f"{title_of(recipe.weights)} beside it; take fp8"
        )
    chosen = recipe.target_modules
    num_inputs = [
        (name, inputs)
        for kind in dimensions.layer_kinds
        for name, (_, inputs) in kind.linear_shapes.items()
        if chosen is None or name in chosen
    ]
    return block_refusal(recipe.weights, num_inputs)
