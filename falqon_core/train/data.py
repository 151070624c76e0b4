"""The data of a training: read, checked, split, and dealt out in steps."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.data.dataset import Dataset, load_dataset
from falqon_core.data.loader import Loader, Microbatch, microbatches

BUCKET_TOKENS = 256  # packed rows on a GPU have a multiple of this length, so that kernels and graphs see few shapes


def load_data(config: TrainConfig, tokenizer: PreTrainedTokenizerBase, warn: Callable[[str], None]) -> tuple[Dataset, Dataset | None]:
    """(train, validation). Raises `DatasetError` and `ModelError`."""
    recipe = config.recipe

    def load(path: Path, param: str) -> Dataset:
        data = load_dataset(path, tokenizer, recipe.max_seq_length, param, recipe.method, recipe.max_bad_record_fraction)
        if data.num_bad:
            warn(f"{param}: {data.num_bad} bad records are left out; the first: {data.first_bad}")
        for warning in data.warnings:
            warn(f"{param}: {warning.message}")
        return data

    train = load(config.train_file, "training_file")
    if train.num_without_targets:
        warn(f"{train.num_without_targets} records have nothing to learn within {recipe.max_seq_length} tokens; left out")
    if config.validation_file is not None:
        return train, load(config.validation_file, "validation_file")
    if recipe.validation_fraction > 0:
        return train.split(recipe.validation_fraction, recipe.seed)
    return train, None


def training_loader(data: Dataset, recipe: Recipe, device: torch.device) -> Loader:
    """`recipe` is resolved and placed."""
    assert recipe.batch_size is not None
    assert recipe.microbatch_tokens is not None
    return Loader(data.sequences, recipe.batch_size, recipe.microbatch_tokens, recipe.packing, recipe.seed, bucket(device))


def validation_microbatches(data: Dataset, recipe: Recipe, device: torch.device) -> list[Microbatch]:
    assert recipe.microbatch_tokens is not None
    return microbatches(data.sequences, recipe.microbatch_tokens, recipe.packing, bucket(device))


def bucket(device: torch.device) -> int:
    """Packed rows are filled up to a multiple of so many tokens."""
    return BUCKET_TOKENS if device.type == "cuda" else 1
