"""A JSONL file becomes a `Dataset`: every record tokenized once, what was cut or left out counted.

Records are tokenized in batches because the tokenizer works them off in parallel. Everything stays in memory, five bytes a token.
What is given up: files larger than memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.data.rendering import render
from falqon_core.data.sequences import Encoder, Sequence
from falqon_core.spec.errors import DatasetError
from falqon_core.spec.records import BadRecord, Record, parse_record

BATCH_SIZE = 512


@dataclass(frozen=True)
class Dataset:
    """`truncated` bool [N] tells which sequences were cut; records whose targets were all cut away are only counted."""

    sequences: list[Sequence]
    truncated: np.ndarray
    num_without_targets: int = 0

    @property
    def num_truncated(self) -> int:
        return int(self.truncated.sum())

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)

    def split(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """(train, held out): `round(fraction * N)` records held out, at least one when `fraction` > 0; both keep the file's order."""
        count = len(self.sequences)
        num_held_out = max(1, round(fraction * count)) if fraction > 0 else 0
        if num_held_out >= count:
            raise DatasetError(f"{count} records are too few to hold some out for validation", "validation_fraction")
        held_out = np.zeros(count, dtype=bool)
        held_out[np.random.Generator(np.random.Philox(key=seed)).permutation(count)[:num_held_out]] = True
        return self._subset(~held_out, self.num_without_targets), self._subset(held_out, 0)

    def _subset(self, chosen: np.ndarray, num_without_targets: int) -> "Dataset":
        sequences = [self.sequences[index] for index in np.flatnonzero(chosen)]
        return Dataset(sequences, self.truncated[chosen], num_without_targets)


def load_dataset(path: Path, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, param: str = "training_file") -> Dataset:
    """Read, check and tokenize a file of records.

    Raises `DatasetError` naming the line for a bad record or one that the chat template refuses, and when no record has
    anything to learn; `ModelError` when the tokenizer lacks what the records need. `param` names the input to blame.
    """
    encoder = Encoder(tokenizer, max_seq_length)
    sequences, truncated, num_without_targets = [], [], 0
    records = _numbered_records(path, param)
    while batch := list(islice(records, BATCH_SIZE)):
        for sequence, was_cut in _encode_batch(batch, encoder, param):
            if sequence.has_targets:
                sequences.append(sequence)
                truncated.append(was_cut)
            else:
                num_without_targets += 1
    if not sequences:
        reason = (
            "the file is empty" if num_without_targets == 0 else f"nothing to learn is left within {max_seq_length} tokens of any record"
        )
        raise DatasetError(reason, param)
    return Dataset(sequences, np.array(truncated, dtype=bool), num_without_targets)


def _numbered_records(path: Path, param: str) -> Iterator[tuple[int, Record]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, parse_record(raw.rstrip(b"\r\n"), number)
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}", param) from None
    except BadRecord as error:
        raise DatasetError(str(error), param) from None


def _encode_batch(batch: list[tuple[int, Record]], encoder: Encoder, param: str) -> Iterator[tuple[Sequence, bool]]:
    rendered = []
    for number, record in batch:
        with _blame(number, param):
            rendered.append(render(record, encoder.tokenizer))
    tokenized = encoder.tokenize([one.text for one in rendered])
    for (number, _), one, tokens in zip(batch, rendered, tokenized, strict=True):
        with _blame(number, param):
            yield encoder.sequence(one, tokens)


@contextmanager
def _blame(line: int, param: str) -> Iterator[None]:
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"line {line}: {error}", param) from None
