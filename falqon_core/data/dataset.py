"""A JSONL file becomes a `Dataset`: every record tokenized once, what was cut or left out counted.

Records are tokenized in batches because the tokenizer works them off in parallel. `encode_file` streams them, `load_dataset` keeps
everything in memory, five bytes a token. A record that cannot be read, or that the chat template refuses, is bad: it ends the loading
or, within the fraction that is tolerated, is counted and left out.
A preference record becomes a `Pair`: both halves are cut on the right to the same length, so that neither answer is judged by
more tokens than the other may have; a pair of which either answer is cut away whole, or whose halves no longer differ, is left out.
What is given up: files larger than memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.config import MethodName
from falqon_core.contract.errors import DatasetError
from falqon_core.contract.inspection import DataWarning
from falqon_core.data.chat_template import Rendered, render
from falqon_core.data.sequences import Encoder, Pair, Sequence
from falqon_core.data.warnings import WarningCounts, control_tokens
from falqon_core.records.file_check import MixedShapes, read_records, too_many_bad
from falqon_core.records.jsonl import BadRecord, lines_of_file
from falqon_core.records.shapes import PreferenceRecord, Record, method_for, shape_of, wrong_kind

BATCH_SIZE = 512


@dataclass(frozen=True)
class Dataset:
    """One kind of record. `truncated` bool [N] tells which were cut; records whose targets were all cut away are only counted.

    So are bad records that were tolerated; `first_bad` says what is wrong with the first.
    """

    sequences: list[Sequence] | list[Pair]
    truncated: np.ndarray
    num_without_targets: int = 0
    num_bad: int = 0
    first_bad: str = ""
    warnings: tuple[DataWarning, ...] = ()

    @property
    def num_truncated(self) -> int:
        return int(self.truncated.sum())

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)

    @property
    def largest_token_id(self) -> int:
        return max((one.largest_token_id for one in self.sequences), default=0)

    def split(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """(train, held out): `round(fraction * N)` records held out, at least one when `fraction` > 0; both keep the file's order."""
        count = len(self.sequences)
        num_held_out = max(1, round(fraction * count)) if fraction > 0 else 0
        if num_held_out >= count:
            raise DatasetError(f"{count} records are too few to hold some out for validation", "validation_fraction")
        held_out = np.zeros(count, dtype=bool)
        held_out[np.random.Generator(np.random.Philox(key=seed)).permutation(count)[:num_held_out]] = True
        train = replace(
            self._subset(~held_out), num_without_targets=self.num_without_targets, num_bad=self.num_bad, first_bad=self.first_bad
        )
        return train, self._subset(held_out)

    def _subset(self, chosen: np.ndarray) -> "Dataset":
        return Dataset([self.sequences[index] for index in np.flatnonzero(chosen)], self.truncated[chosen])


def with_reference(dataset: Dataset, reference: np.ndarray) -> Dataset:
    """The same pairs, knowing the base's log-probabilities fp32 [N, 2] of (chosen, rejected). Raises `ValueError` for another N."""
    pairs = [
        replace(pair, reference=(float(chosen), float(rejected)))
        for pair, (chosen, rejected) in zip(dataset.sequences, reference, strict=True)
    ]
    return replace(dataset, sequences=pairs)


class Encoded(NamedTuple):
    """`cut`: tokens cut away of the sequence, or of each half of the pair."""

    line: int
    record: Record
    item: Sequence | Pair
    cut: tuple[int, ...]
    rendered: list[Rendered]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence before cutting."""
        sequences = (self.item.chosen, self.item.rejected) if isinstance(self.item, Pair) else (self.item,)
        return [len(sequence) + cut for sequence, cut in zip(sequences, self.cut, strict=True)]


def load_dataset(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    param: str = "training_file",
    method: MethodName | None = None,
    max_bad_fraction: float = 0.0,
) -> Dataset:
    """Read, check and tokenize a file of records.

    Raises `DatasetError` naming the line for a bad record (when more than `max_bad_fraction` of them are) and when no record has
    anything to learn; `ModelError` when the tokenizer lacks what the records need. `param` names the input to blame, `method`
    what the records are to train with (None: whatever suits the first).
    """
    sequences, truncated, num_without_targets = [], [], 0
    num_bad, first_bad = 0, ""
    counts = WarningCounts(control_tokens(tokenizer))
    for found in encode_file(path, tokenizer, max_seq_length, param, method):
        if isinstance(found, DatasetError):
            if max_bad_fraction == 0:
                raise found
            num_bad, first_bad = num_bad + 1, first_bad or str(found)
            continue
        counts.add(found.line, found.record, found.rendered)
        if found.item.has_targets:
            sequences.append(found.item)
            truncated.append(any(found.cut))
        else:
            num_without_targets += 1
    num_records = num_bad + num_without_targets + len(sequences)
    if num_bad / max(1, num_records) > max_bad_fraction:
        raise DatasetError(too_many_bad(num_bad, num_records, max_bad_fraction, first_bad), param)
    if not sequences:
        reason = (
            "the file is empty" if num_without_targets == 0 else f"nothing to learn is left within {max_seq_length} tokens of any record"
        )
        raise DatasetError(reason, param)
    return Dataset(sequences, np.array(truncated, dtype=bool), num_without_targets, num_bad, first_bad, tuple(counts.warnings()))


def encode_file(
    path: Path, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, param: str, method: MethodName | None = None
) -> Iterator[Encoded | DatasetError]:
    """Every record in the order of the file, a bad one as the error that names its line.

    Raises what no tolerance covers: `DatasetError` for a file that cannot be read and for records of another kind than the first or
    than `method` takes, `ModelError` when the tokenizer lacks what the records need.
    """
    encoder = Encoder(tokenizer, max_seq_length)
    records = _numbered_records(path, param, method)
    while batch := list(islice(records, BATCH_SIZE)):
        yield from _encode_batch(batch, encoder, param)


def _numbered_records(path: Path, param: str, method: MethodName | None) -> Iterator[tuple[int, Record | DatasetError]]:
    try:
        for number, found in read_records(lines_of_file(path)):
            if isinstance(found, MixedShapes):
                raise DatasetError(str(found), param)
            if isinstance(found, BadRecord):
                yield number, DatasetError(str(found), param)
                continue
            shape = shape_of(found.record)
            method = method or method_for(shape)
            if reason := wrong_kind(shape, method):
                raise DatasetError(f"line {number}: {reason}", param)
            yield number, found.record
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}", param) from None


def _encode_batch(batch: list[tuple[int, Record | DatasetError]], encoder: Encoder, param: str) -> Iterator[Encoded | DatasetError]:
    rendered = [(number, record, _rendered(number, record, encoder, param)) for number, record in batch]
    tokenized = encoder.tokenize([one.text for _, _, ones in rendered if not isinstance(ones, DatasetError) for one in ones])
    for number, record, ones in rendered:
        if isinstance(ones, DatasetError):
            yield ones
            continue
        texts = [(one, next(tokenized)) for one in ones]
        try:
            encoded = [encoder.sequence(one, tokens) for one, tokens in texts]
        except DatasetError as error:
            yield _blamed(number, error, param)
            continue
        item = encoded[0][0] if len(encoded) == 1 else Pair(encoded[0][0], encoded[1][0])
        yield Encoded(number, record, item, tuple(num_cut for _, num_cut in encoded), ones)


def _rendered(line: int, record: Record | DatasetError, encoder: Encoder, param: str) -> list[Rendered] | DatasetError:
    if isinstance(record, DatasetError):
        return record
    try:
        return [render(one, encoder.tokenizer) for one in (record.chats if isinstance(record, PreferenceRecord) else (record,))]
    except DatasetError as error:
        return _blamed(line, error, param)


def _blamed(line: int, error: DatasetError, param: str) -> DatasetError:
    return DatasetError(f"line {line}: {error}", param)
