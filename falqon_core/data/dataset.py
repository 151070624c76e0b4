"""Data sets from JSONL files: every record is tokenized once, and cut or omitted records are
counted.

Records are tokenized in batches because the tokenizer works them off in parallel. `encode_file`
streams them, `load_dataset` keeps everything in memory, five bytes a token. A record that cannot be
read, or that the chat template refuses, is bad: it ends the loading or, within the fraction that is
tolerated, is counted and left out. A preference record becomes a `Pair`: both halves are cut on the
right to the same length, so that neither answer is judged by more tokens than the other may have; a
pair of which either answer is cut away whole, or whose halves no longer differ, is left out. A long
text becomes several sequences. A file must fit in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.automatic import num_held_out
from falqon_core.contract.config import ObjectiveName
from falqon_core.contract.errors import DatasetError
from falqon_core.contract.inspection import DataWarning
from falqon_core.data.chat_template import Rendered, render
from falqon_core.data.pieces import split_text
from falqon_core.data.sequences import Encoder, Item, Pair, SequenceGroup, Tokens, TokenSequence
from falqon_core.data.warnings import WarningCounts
from falqon_core.records.file_check import MixedShapes, read_records, too_many_bad
from falqon_core.records.jsonl import BadRecord, lines_of_file
from falqon_core.records.shapes import (
    PreferenceRecord,
    Record,
    TextRecord,
    objective_for,
    shape_of,
    wrong_kind,
)

RECORDS_AT_ONCE = 512


@dataclass(frozen=True)
class Dataset:
    """One kind of record. `record_numbers` int64 [N], ascending: the record of each sequence;
    `truncated` bool [N]: True for those that were cut; records whose targets were all cut off are
    only counted.

    So are bad records that were tolerated; `first_bad` is the error of the first. `has_chats`: True
    where a chat template has rendered records.
    """

    sequences: Sequence[Item]
    record_numbers: np.ndarray
    truncated: np.ndarray
    num_without_targets: int = 0
    num_bad: int = 0
    first_bad: str = ""
    warnings: tuple[DataWarning, ...] = ()
    has_chats: bool = False

    @property
    def num_records(self) -> int:
        """Return the number of records that the sequences are of."""
        return len(np.unique(self.record_numbers))

    @property
    def num_truncated(self) -> int:
        """Return the number of sequences that were cut."""
        return int(self.truncated.sum())

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of all sequences."""
        return sum(len(sequence) for sequence in self.sequences)

    @property
    def largest_token_id(self) -> int:
        """Return the largest token id, 0 for an empty data set."""
        return max((sequence.largest_token_id for sequence in self.sequences), default=0)

    def split(self, fraction: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Return (train, held out): `round(fraction * N)` records held out, at least one when
        `fraction` > 0; both keep the file's order.
        """
        numbers = np.unique(self.record_numbers)
        held_out = np.isin(
            self.record_numbers, numbers[choose_held_out(len(numbers), fraction, seed)]
        )
        train = replace(
            self._subset(~held_out),
            num_without_targets=self.num_without_targets,
            num_bad=self.num_bad,
            first_bad=self.first_bad,
        )
        return train, self._subset(held_out)

    def _subset(self, chosen: np.ndarray) -> "Dataset":
        return Dataset(
            [self.sequences[index] for index in np.flatnonzero(chosen).tolist()],
            self.record_numbers[chosen],
            self.truncated[chosen],
            has_chats=self.has_chats,
        )


def choose_held_out(count: int, fraction: float, seed: int) -> np.ndarray:
    """Return the indices, in no order, of the held-out records among those that have targets.

    Raises `DatasetError` where there are too few records.
    """
    number = num_held_out(count, fraction)
    if number >= count:
        raise DatasetError(
            f"{count} records are too few to hold some out for validation",
            "validation_fraction",
        )
    return np.random.Generator(np.random.Philox(key=seed)).permutation(count)[:number]


def with_reference(dataset: Dataset, reference: np.ndarray) -> Dataset:
    """Return the pairs with the log-probabilities at the start, fp32 [N, 2] of (chosen, rejected).

    Raises `ValueError` for another N.
    """
    pairs = [
        replace(pair, reference=(float(chosen), float(rejected)))
        for pair, (chosen, rejected) in zip(dataset.sequences, reference, strict=True)
        if isinstance(pair, Pair)
    ]
    return replace(dataset, sequences=pairs)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record and its items: several of a long text. `lengths`: the tokens of each sequence before
    cutting and splitting; `num_cut` counts the tokens that are cut away, or left out because
    nothing is learned of them.
    """

    line: int
    record: Record
    items: Sequence[Item]
    lengths: list[int]
    num_cut: int
    rendered: list[Rendered]


def load_dataset(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    param: str = "training_file",
    objective: ObjectiveName | None = None,
    max_bad_fraction: float = 0.0,
    text_overlap_tokens: int | None = 0,
) -> Dataset:
    """Read, check and tokenize a file of records. `text_overlap_tokens`: None cuts long texts.

    Raises `DatasetError` where a record is bad (with its line, when more than `max_bad_fraction` of
    them are) or none has anything to learn; `ModelError` where the tokenizer lacks a token that the
    records need. `param` names the input in errors, `objective` the one that they train (None: the
    one that suits the first).
    """
    sequences: list[Item] = []
    record_numbers: list[int] = []
    truncated: list[bool] = []
    num_good = 0
    num_without_targets = 0
    num_bad, first_bad = 0, ""
    has_chats = False
    counts = WarningCounts(tokenizer)
    encoder = Encoder(tokenizer, max_seq_length, text_overlap_tokens)
    for encoded in encode_file(path, encoder, param, objective):
        if isinstance(encoded, DatasetError):
            if max_bad_fraction == 0:
                raise encoded
            num_bad = num_bad + 1
            first_bad = first_bad or str(encoded)
            continue
        counts.add(encoded.line, encoded.record, encoded.rendered, len(encoded.lengths))
        has_chats = has_chats or not encoded.rendered[0].plain
        num_good += 1
        items = [item for item in encoded.items if item.has_targets]
        sequences += items
        record_numbers += [num_good] * len(items)
        truncated += [encoded.num_cut > 0] * len(items)
        num_without_targets += not items
    num_records = num_bad + num_good
    if num_bad / max(1, num_records) > max_bad_fraction:
        raise DatasetError(too_many_bad(num_bad, num_records, max_bad_fraction, first_bad), param)
    if not sequences:
        reason = (
            "the file is empty"
            if num_without_targets == 0
            else f"nothing to learn is left within {max_seq_length} tokens of any record"
        )
        raise DatasetError(reason, param)
    return Dataset(
        sequences,
        np.array(record_numbers, dtype=np.int64),
        np.array(truncated, dtype=bool),
        num_without_targets,
        num_bad,
        first_bad,
        tuple(counts.warnings()),
        has_chats,
    )


def encode_file(
    path: Path, encoder: Encoder, param: str, objective: ObjectiveName | None = None
) -> Iterator[Encoded | DatasetError]:
    """Yield every record in the order of the file, a bad one as the error that names its line.

    Raises what no tolerance covers: `DatasetError` for a file that cannot be read and for records
    of another kind than the first or than `objective` takes, `ModelError` when the tokenizer lacks
    what the records need.
    """
    records = _number_records(path, param, objective)
    while batch := list(islice(records, RECORDS_AT_ONCE)):
        yield from _encode_batch(batch, encoder, param)


def _number_records(
    path: Path, param: str, objective: ObjectiveName | None
) -> Iterator[tuple[int, Record | DatasetError]]:
    try:
        for number, item in read_records(lines_of_file(path)):
            if isinstance(item, MixedShapes):
                raise DatasetError(str(item), param)
            if isinstance(item, BadRecord):
                yield number, DatasetError(str(item), param)
                continue
            shape = shape_of(item.record)
            objective = objective or objective_for(shape)
            if reason := wrong_kind(shape, objective):
                raise DatasetError(f"line {number}: {reason}", param)
            yield number, item.record
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}", param) from None


def _encode_batch(
    batch: list[tuple[int, Record | DatasetError]], encoder: Encoder, param: str
) -> Iterator[Encoded | DatasetError]:
    rendered = [
        (number, record, _render_record(number, record, encoder, param)) for number, record in batch
    ]
    tokenized = encoder.tokenize(
        [
            text.text
            for _, _, texts in rendered
            if not isinstance(texts, DatasetError)
            for text in texts
        ]
    )
    for number, record, texts in rendered:
        if isinstance(record, DatasetError):
            yield record
            continue
        if isinstance(texts, DatasetError):
            yield texts
            continue
        tokens = [next(tokenized) for _ in texts]
        try:
            yield _encode_record(number, record, texts, tokens, encoder)
        except DatasetError as error:
            yield _name_line(number, error, param)


def _encode_record(
    line: int, record: Record, texts: list[Rendered], tokens: list[Tokens], encoder: Encoder
) -> Encoded:
    if isinstance(record, TextRecord) and encoder.text_overlap_tokens is not None:
        (text,) = encoder.whole_sequences(texts[0], tokens[0])
        pieces = split_text(
            text, len(encoder.begin_ids), encoder.max_seq_length, encoder.text_overlap_tokens
        )
        return Encoded(line, record, pieces, [len(text)], 0, texts)
    encodings = [encoder.encode(*each) for each in zip(texts, tokens, strict=True)]
    item = _item([encoding.item for encoding in encodings])
    lengths = [length for encoding in encodings for length in encoding.lengths]
    return Encoded(line, record, [item], lengths, sum(lengths) - len(item), texts)


def _item(encoded: list[TokenSequence | SequenceGroup]) -> Item:
    """Return the item of a record; of two encoded answers a pair."""
    match encoded:
        case [TokenSequence() as chosen, TokenSequence() as rejected]:
            return Pair(chosen, rejected)
        case [item]:
            return item
    raise AssertionError("one turn of an answer is learned, and it is the last")


def _render_record(
    line: int, record: Record | DatasetError, encoder: Encoder, param: str
) -> list[Rendered] | DatasetError:
    if isinstance(record, DatasetError):
        return record
    chats = record.chats if isinstance(record, PreferenceRecord) else (record,)
    try:
        return [render(chat, encoder.tokenizer) for chat in chats]
    except DatasetError as error:
        return _name_line(line, error, param)


def _name_line(line: int, error: DatasetError, param: str) -> DatasetError:
    return DatasetError(f"line {line}: {error}", param)
