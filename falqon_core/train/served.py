"""The validation loss of the merged model as it is served."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.data.microbatch import MicrobatchPlan
from falqon_core.meld.activations import rounded_activations, rounds_activations
from falqon_core.objectives import Objective
from falqon_core.train.evaluate import evaluate


@dataclass(frozen=True, slots=True)
class ServedLoss:
    """`weights`: with FP8 weights and activations as they come; None where the device that trains
    rounds them as well, and for weights in blocks. `weights_and_activations`: with both in FP8, as
    a card serves the model; with weights in blocks activations stay as they come there, too. Means
    in nats, as the objective's loss.
    """

    weights: float | None
    weights_and_activations: float


def evaluate_as_served(
    model: PreTrainedModel,
    recipe: Recipe,
    trained_loss: float,
    plan: MicrobatchPlan,
    objective: Objective,
) -> ServedLoss:
    """Evaluate the merged `model`, whose loss was `trained_loss` before.

    Codes that FALQON trained give the same loss again, so that is not computed. Raises
    `LossNotFinite`.
    """
    rounds = rounds_activations(model)
    merged = trained_loss
    if recipe.method != "falqon":
        merged = evaluate(model, plan, objective)["loss"]
    if rounds or recipe.weights != "fp8":
        return ServedLoss(None, merged)
    with rounded_activations(model):
        return ServedLoss(merged, evaluate(model, plan, objective)["loss"])
