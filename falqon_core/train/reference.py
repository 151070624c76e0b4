"""What the untouched base says of every pair: the reference of objective "dpo", computed once and
kept in every checkpoint.

The base must be asked before a method changes it. The log-probabilities (fp32 [N, 2] a data set,
eight bytes a pair) then replace a second model in memory; a training that continues from a
checkpoint takes them from there, so it trains on the same numbers. A request to stop waits for the
end of this pass.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.data.dataset import Dataset, with_reference
from falqon_core.data.microbatch import collate, groups
from falqon_core.objectives.loss import sequence_log_probabilities
from falqon_core.train.data import Datasets

# of the names under which a checkpoint keeps them, beside the method's own tensors
PREFIX = "reference."


def compute_reference(model: PreTrainedModel, data: Datasets, recipe: Recipe) -> dict[str, Tensor]:
    """Return fp32 [N, 2] per data set: the base's log-probabilities of (chosen, rejected); nothing
    unless the objective is "dpo".
    """
    if recipe.objective != "dpo":
        return {}
    return {
        PREFIX + name: reference_log_probabilities(model, dataset, recipe)
        for name, dataset in data.by_name().items()
    }


def stored_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `compute_reference` gave, out of a checkpoint's tensors."""
    return {name: value for name, value in state.items() if name.startswith(PREFIX)}


def apply_reference(data: Datasets, reference: Mapping[str, Tensor]) -> Datasets:
    """Return the data sets with their references, in so far as they have one.

    Raises `ConfigError` when a checkpoint belongs to other data.
    """
    if not reference:
        return data
    try:
        return data._replace(
            **{
                name: with_reference(dataset, reference[PREFIX + name].numpy())
                for name, dataset in data.by_name().items()
            }
        )
    except (KeyError, ValueError):
        raise ConfigError(
            "the output folder holds a checkpoint of other preference data; choose another folder",
            "train_file",
        ) from None


@torch.no_grad()
def reference_log_probabilities(model: PreTrainedModel, dataset: Dataset, recipe: Recipe) -> Tensor:
    """Return fp32 [N, 2] on the CPU, in the order of `dataset`."""
    assert recipe.microbatch_tokens is not None, "resolve the recipe first"
    log_probabilities = torch.empty(len(dataset.sequences), 2)
    for group in groups(dataset.sequences, recipe.microbatch_tokens, recipe.packing):
        microbatch = collate([dataset.sequences[index] for index in group], recipe.packing)
        values = sequence_log_probabilities(model, microbatch)
        log_probabilities[group] = values.view(-1, 2).cpu()
    return log_probabilities
