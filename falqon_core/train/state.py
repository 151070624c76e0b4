"""The state that a training changes from step to step, and the part that a checkpoint holds."""

import gc
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.data.dataset import Dataset
from falqon_core.data.loader import Loader, Microbatch
from falqon_core.meld.sharded_layers import Ranks
from falqon_core.methods import TrainingMethod, create_method
from falqon_core.train.checkpoint import Progress, TrainingState
from falqon_core.train.data import training_loader
from falqon_core.train.optimizer import Optimizer

# Batches that a method may read before training, e.g. for the gradient's directions.
NUM_PREPARING_STEPS = 4


@dataclass
class TrainState:
    """All that a training changes. `reference`: the log-probabilities of pairs at the start, empty
    unless the objective needs them.
    """

    model: PreTrainedModel
    method: TrainingMethod
    optimizer: Optimizer
    loader: Loader
    progress: Progress
    reference: dict[str, Tensor]

    def checkpoint(self) -> TrainingState:
        """Return the state as a checkpoint; tensors are references, not copies."""
        return TrainingState(
            self.progress, self.method.state() | self.reference, self.optimizer.state()
        )

    def release_model(self) -> PreTrainedModel:
        """Return the model and drop every other reference to its memory: training has ended."""
        model = self.model
        del self.model, self.method, self.optimizer
        return model


def prepare_method(
    model: PreTrainedModel,
    train: Dataset,
    recipe: Recipe,
    checkpoint: TrainingState | None,
    ranks: Ranks | None = None,
) -> TrainingMethod:
    """Change `model`, the untouched base, to train from the beginning, or from `checkpoint`. With
    `ranks` it is sharded.
    """
    method = create_method(recipe, ranks)
    if checkpoint is None:
        method.prepare(model, _first_microbatches(train, recipe, model.device))
    else:
        method.restore(model, checkpoint.method)
    return method


def build_state(
    model: PreTrainedModel,
    method: TrainingMethod,
    train: Dataset,
    reference: dict[str, Tensor],
    progress: Progress,
    checkpoint: TrainingState | None,
) -> TrainState:
    """Return the state that trains `model`, which `method` has prepared, or restored from
    `checkpoint`.
    """
    recipe = progress.recipe
    loader = training_loader(train, recipe, model.device)
    if checkpoint is not None:
        # The plan may be that of another card than the checkpoint's.
        plan = {
            "recipe": recipe,
            "device_name": progress.device_name,
            "data_sha256": progress.data_sha256,
            "base_fingerprint": progress.base_fingerprint,
        }
        progress = checkpoint.progress.model_copy(update=plan)
        loader.load_state_dict(progress.loader)
    moments = METHOD_SPECS[recipe.method].moments
    optimizer = Optimizer(
        method.parameters(),
        recipe.weight_decay,
        recipe.max_grad_norm,
        moments,
        method.relative_rates(),
    )
    if checkpoint is not None:
        optimizer.load(checkpoint.optimizer)
    return TrainState(model, method, optimizer, loader, progress, reference)


def free_memory(device: torch.device) -> None:
    """Free the memory of a released model, since another one is loaded next, here or elsewhere."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _first_microbatches(train: Dataset, recipe: Recipe, device: torch.device) -> list[Microbatch]:
    shortest = recipe.model_copy(update={"microbatch_tokens": recipe.longest_record})
    loader = training_loader(train, shortest, device)
    return [microbatch for _ in range(NUM_PREPARING_STEPS) for microbatch in loader.next_step()]
