"""What a data set is to a model: records, tokens, what was cut, and how long records are."""

from pathlib import Path
from typing import Any

import numpy as np

from falqon_core.data.dataset import load_dataset
from falqon_core.train.model import load_tokenizer

NUM_BINS = 20


def inspect_dataset(dataset: Path, model: Path, max_seq_length: int) -> dict[str, Any]:
    """Counts as JSON. `histogram.edges` has one number more than `histogram.counts`; lengths are in tokens, after cutting.

    Raises `DatasetError` and `ModelError` as training would.
    """
    data = load_dataset(dataset, load_tokenizer(model), max_seq_length)
    lengths = np.array([len(sequence) for sequence in data.sequences])
    counts, edges = np.histogram(lengths, bins=NUM_BINS)
    return {
        "records": len(data.sequences),
        "records_without_targets": data.num_without_targets,
        "tokens_per_epoch": data.num_tokens,
        "target_tokens_per_epoch": sum(sequence.num_labels for sequence in data.sequences),
        "truncated": data.num_truncated,
        "max_seq_length": max_seq_length,
        "longest": int(lengths.max()),
        "median": float(np.median(lengths)),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }
