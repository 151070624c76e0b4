"""The data of a training: read, checked, split, and dealt out in steps."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.data.dataset import Dataset, load_dataset
from falqon_core.data.loader import Loader, row_multiple
from falqon_core.data.microbatch import MicrobatchPlan, plan_microbatches


class Datasets(NamedTuple):
    """The data of a training, and of its validation where there is one."""

    train: Dataset
    validation: Dataset | None

    def by_name(self) -> dict[str, Dataset]:
        """Return the data sets that exist, by name."""
        return {name: data for name, data in self._asdict().items() if data is not None}


def load_data(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, warn: Callable[[str], None]
) -> Datasets:
    """Read and tokenize the files, or split the one. Raises `DatasetError` where a file cannot be
    trained on, and `ModelError` where its texts need another tokenizer.
    """
    recipe = config.recipe
    train = _load_file(config.train_file, "training_file", recipe, tokenizer, warn)
    if train.num_without_targets:
        warn(
            f"{train.num_without_targets} records have nothing to learn within "
            f"{recipe.max_seq_length} tokens; left out"
        )
    if config.validation_file is not None:
        path = config.validation_file
        return Datasets(train, _load_file(path, "validation_file", recipe, tokenizer, warn))
    fraction = recipe.with_fraction(train.num_records, False).validation_fraction
    if fraction:
        return Datasets(*train.split(fraction, recipe.validation_seed))
    return Datasets(train, None)


def _load_file(
    path: Path,
    param: str,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    warn: Callable[[str], None],
) -> Dataset:
    data = load_dataset(
        path,
        tokenizer,
        recipe.max_seq_length,
        param,
        recipe.objective,
        recipe.max_bad_record_fraction,
        recipe.text_overlap_tokens,
    )
    if data.num_bad:
        warn(f"{param}: {data.num_bad} bad records are left out; the first: {data.first_bad}")
    for warning in data.warnings:
        warn(f"{param}: {warning.message}")
    return data


def training_loader(data: Dataset, recipe: Recipe, device: torch.device) -> Loader:
    """Return the loader of optimizer steps; `recipe` is resolved and fit to memory."""
    assert recipe.batch_size is not None
    assert recipe.microbatch_tokens is not None
    return Loader(
        data.sequences,
        recipe.batch_size,
        recipe.microbatch_tokens,
        recipe.packing,
        recipe.seed,
        row_multiple(device),
    )


def plan_validation(data: Dataset, recipe: Recipe, device: torch.device) -> MicrobatchPlan:
    """Plan the microbatches of an evaluation."""
    assert recipe.microbatch_tokens is not None
    return plan_microbatches(
        data.sequences, recipe.microbatch_tokens, recipe.packing, row_multiple(device)
    )
