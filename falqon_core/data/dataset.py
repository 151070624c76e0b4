"""A JSONL file becomes a `Dataset`: every record tokenized once, what was cut or left out counted.

Records are tokenized in batches because the tokenizer works them off in parallel. Everything stays in memory, five bytes a token.
A preference record becomes a `Pair`: both halves are cut on the right to the same length, so that neither answer is judged by
more tokens than the other may have; a pair of which either answer is cut away whole, or whose halves no longer differ, is left out.
What is given up: files larger than memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.data.rendering import render
from falqon_core.data.sequences import Encoder, Pair, Sequence
from falqon_core.spec.config import MethodName
from falqon_core.spec.errors import DatasetError
from falqon_core.spec.records import BadRecord, parse_record
from falqon_core.spec.shapes import PreferenceRecord, Record, method_for, shape_of, wrong_kind

BATCH_SIZE = 512


@dataclass(frozen=True)
class Dataset:
    """One kind of record. `truncated` bool [N] tells which were cut; records whose targets were all cut away are only counted."""

    sequences: list[Sequence] | list[Pair]
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


def with_reference(dataset: Dataset, reference: np.ndarray) -> Dataset:
    """The same pairs, knowing the base's log-probabilities fp32 [N, 2] of (chosen, rejected). Raises `ValueError` for another N."""
    pairs = [
        replace(pair, reference=(float(chosen), float(rejected)))
        for pair, (chosen, rejected) in zip(dataset.sequences, reference, strict=True)
    ]
    return replace(dataset, sequences=pairs)


def load_dataset(
    path: Path, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, param: str = "training_file", method: MethodName | None = None
) -> Dataset:
    """Read, check and tokenize a file of records.

    Raises `DatasetError` naming the line for a bad record or one that the chat template refuses, and when no record has
    anything to learn; `ModelError` when the tokenizer lacks what the records need. `param` names the input to blame, `method`
    what the records are to train with (None: whatever suits the first).
    """
    encoder = Encoder(tokenizer, max_seq_length)
    sequences, truncated, num_without_targets = [], [], 0
    records = _numbered_records(path, param, method)
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


def _numbered_records(path: Path, param: str, method: MethodName | None) -> Iterator[tuple[int, Record]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                record = parse_record(raw.rstrip(b"\r\n"), number)
                shape = shape_of(record)
                method = method or method_for(shape)
                if reason := wrong_kind(shape, method):
                    raise DatasetError(f"line {number}: {reason}", param)
                yield number, record
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}", param) from None
    except BadRecord as error:
        raise DatasetError(str(error), param) from None


def _encode_batch(batch: list[tuple[int, Record]], encoder: Encoder, param: str) -> Iterator[tuple[Sequence | Pair, bool]]:
    rendered = []
    for number, record in batch:
        with _blame(number, param):
            chats = record.chats if isinstance(record, PreferenceRecord) else (record,)
            rendered.append([render(one, encoder.tokenizer) for one in chats])
    tokenized = encoder.tokenize([one.text for ones in rendered for one in ones])
    for (number, _), ones in zip(batch, rendered, strict=True):
        with _blame(number, param):
            encoded = [encoder.sequence(one, next(tokenized)) for one in ones]
            was_cut = any(cut for _, cut in encoded)
            yield encoded[0][0] if len(encoded) == 1 else Pair(encoded[0][0], encoded[1][0]), was_cut


@contextmanager
def _blame(line: int, param: str) -> Iterator[None]:
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"line {line}: {error}", param) from None
