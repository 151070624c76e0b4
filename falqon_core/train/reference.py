"""Log-probabilities of the pairs before the first step: the reference of objective "dpo", computed
once and kept in every checkpoint.

The log-probabilities (fp32 [N, 2] a data set, eight bytes a pair, NaN for a pair that no step
reads) replace a second model in memory; a training that continues from a checkpoint takes them from
there, so it trains on the same numbers. A training that is stopped during this pass has no
checkpoint yet and begins it again.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ConfigError
from falqon_core.data.dataset import with_reference
from falqon_core.data.loader import order_of_epoch, row_multiple
from falqon_core.data.microbatch import collate, groups
from falqon_core.data.sequences import Item
from falqon_core.objectives.loss import sequence_log_probabilities
from falqon_core.train.data import Datasets
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.progress_counter import ProgressCounter
from falqon_core.train.signals import StoppedBeforeFirstStep

# Names under which a checkpoint keeps them begin so, beside the method's own tensors.
REFERENCE_PREFIX = "reference."


def compute_reference(
    model: PreTrainedModel,
    data: Datasets,
    recipe: Recipe,
    group: ProcessGroup,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> dict[str, Tensor]:
    """Return fp32 [N, 2] per data set: the log-probabilities of (chosen, rejected) that `model`
    gives, which a method has prepared; nothing unless the objective is "dpo".

    The ranks share the forward passes. Progress goes to `report` twice a minute. Raises
    `StoppedBeforeFirstStep` where `stop` returns True on any rank.
    """
    if recipe.objective != "dpo":
        return {}
    datasets = data.by_name()
    read = {name: np.arange(len(dataset.sequences)) for name, dataset in datasets.items()}
    read["train"] = _indices_read(len(data.train.sequences), recipe)
    counter = ProgressCounter("reference", sum(map(len, read.values())), "pairs", report)
    reference = {}
    for name, dataset in datasets.items():
        pairs = [dataset.sequences[index] for index in read[name].tolist()]
        # fp32 [N, 2]; NaN stands for a pair that no step reads.
        values = torch.full((len(dataset.sequences), 2), math.nan)
        values[read[name]] = _compute_together(model, pairs, recipe, group, counter, stop)
        reference[REFERENCE_PREFIX + name] = values
    return reference


def _compute_together(
    model: PreTrainedModel,
    pairs: Sequence[Item],
    recipe: Recipe,
    group: ProcessGroup,
    counter: ProgressCounter,
    stop: Callable[[], bool],
) -> Tensor:
    """Return the log-probabilities of all `pairs`, fp32 [n, 2]; each rank computes its share."""
    assert recipe.microbatch_tokens is not None, "resolve the recipe first"
    batches = groups(pairs, recipe.microbatch_tokens, recipe.packing)
    values = torch.zeros(len(pairs), 2)
    for start in range(0, len(batches), group.size):
        if group.any_rank(stop()):
            raise StoppedBeforeFirstStep
        together = batches[start : start + group.size]
        with group.run(trains=False):
            if group.rank < len(together):
                mine = together[group.rank]
                values[mine] = log_probabilities(model, [pairs[i] for i in mine], recipe.packing)
        counter.add(sum(map(len, together)))
    with group.barrier_or_raise():
        pass
    group.all_reduce_sum_tensor(values)
    return values


def _indices_read(num_pairs: int, recipe: Recipe) -> np.ndarray:
    """Return the indices of the training pairs that any step reads, ascending: with few steps not
    all of the first epoch.
    """
    assert recipe.batch_size is not None, "resolve the recipe first"
    order = order_of_epoch(num_pairs, recipe.seed, epoch=0)
    return np.sort(order[: recipe.num_steps(num_pairs) * recipe.batch_size])


def read_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the result of `compute_reference` from a checkpoint's tensors."""
    return {name: value for name, value in state.items() if name.startswith(REFERENCE_PREFIX)}


def apply_reference(data: Datasets, reference: Mapping[str, Tensor]) -> Datasets:
    """Return the data sets with their references, where they have one.

    Raises `ConfigError` where the checkpoint belongs to other data.
    """
    if not reference:
        return data
    try:
        return data._replace(
            **{
                name: with_reference(dataset, reference[REFERENCE_PREFIX + name].numpy())
                for name, dataset in data.by_name().items()
            }
        )
    except (KeyError, ValueError):
        raise ConfigError(
            "the output folder holds a checkpoint of other preference data; choose another folder",
            "train_file",
        ) from None


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, pairs: Sequence[Item], packing: bool) -> Tensor:
    """Return the log-probabilities of (chosen, rejected) from one forward pass, fp32 [n, 2] on the
    CPU.
    """
    microbatch = collate(pairs, packing, row_multiple(model.device))
    return sequence_log_probabilities(model, microbatch).view(-1, 2).cpu()
