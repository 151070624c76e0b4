"""Dataset statistics under a model's tokenizer: exact token counts, lengths, what is cut, copies
and leaks, and the first records token by token.

It reads as training does, through `data.dataset.encode_file`, one record at a time; what is kept of
a record are its lengths and its fingerprint. The validation file is only compared, not counted;
inspect it by itself for that.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError
from falqon_core.contract.inspection import Histogram, Inspection, OverlapCount, Preview
from falqon_core.contract.template_kwargs import TemplateValue
from falqon_core.data.dataset import Encoded, encode_file
from falqon_core.data.duplicates import Fingerprints, duplicates, leakage
from falqon_core.data.pieces import count_overlaps
from falqon_core.data.sequences import Encoder, Pair, TokenSequence, sequences_of
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.data.warnings import WarningCounts
from falqon_core.importers.tokenizer import load_tokenizer
from falqon_core.records.file_check import MAX_ERRORS, read_records
from falqon_core.records.jsonl import BadRecord, lines_of_file

MAX_BINS = 20
USUAL_PERCENT = 99  # of the lengths, which the bins divide evenly
FAR_FACTOR = 2  # multiple of their range from which on the longest has a bin of its own
NUM_PREVIEWS = 5
PREVIEW_TOKENS = 512
PREVIEW_SEQUENCES = 8  # Sequences of one record that are shown.
REPLACEMENT_CHARACTER = "\ufffd"  # Tokenizers decode bytes that are no whole character yet as this.


def inspect_dataset(
    dataset: Path,
    model: Path,
    max_seq_length: int,
    validation_file: Path | None = None,
    chat_template_kwargs: dict[str, TemplateValue] | None = None,
) -> Inspection:
    """Raises `DatasetError` for a file of mixed kinds or without a good record, `ModelError` and
    `ConfigError`, as training would.
    """
    tokenizer = load_tokenizer(model)
    set_template_defaults(tokenizer, chat_template_kwargs)
    prints = Fingerprints()
    lengths = array("Q")
    preview: list[Preview] = []
    errors: list[str] = []
    warning_counts = WarningCounts(tokenizer)
    records = without_targets = bad_records = truncated = tokens = targets = tokens_cut = 0
    sequences = split = 0
    encoder = Encoder(tokenizer, max_seq_length)
    for encoded in encode_file(dataset, encoder, "training_file"):
        if isinstance(encoded, DatasetError):
            bad_records += 1
            if len(errors) < MAX_ERRORS:
                errors.append(str(encoded))
            continue
        records += 1
        prints.add(encoded.line, encoded.record)
        warning_counts.add(encoded.line, encoded.record, encoded.rendered, len(encoded.lengths))
        lengths.extend(encoded.lengths)
        truncated += encoded.num_cut > 0
        tokens_cut += encoded.num_cut
        items = [item for item in encoded.items if item.has_targets]
        tokens += sum(map(len, items))
        targets += sum(item.num_labels for item in items)
        without_targets += not items
        split += len(encoded.items) > 1
        sequences += max(len(encoded.items), len(encoded.lengths))
        preview += _previews(encoded, tokenizer, NUM_PREVIEWS - len(preview))
    if records == 0:
        raise DatasetError(errors[0] if errors else "the file is empty", "training_file")
    overlaps = []
    if split:
        whole = OverlapCount(text_overlap_tokens=0, sequences=sequences, tokens_per_epoch=tokens)
        overlaps = count_overlaps(np.array(lengths), len(encoder.begin_ids), max_seq_length, whole)
    return Inspection(
        records=records,
        records_without_targets=without_targets,
        bad_records=bad_records,
        errors=errors,
        sequences=sequences,
        tokens_per_epoch=tokens,
        target_tokens_per_epoch=targets,
        max_seq_length=max_seq_length,
        truncated=truncated,
        tokens_cut=tokens_cut,
        split=split,
        overlaps=overlaps,
        longest=max(lengths),
        median=float(np.median(lengths)),
        histogram=_count_lengths(lengths),
        duplicates=duplicates(prints),
        leakage=leakage(prints, _fingerprints(validation_file))
        if validation_file is not None
        else None,
        preview=preview,
        warnings=warning_counts.warnings(),
    )


def _count_lengths(lengths: "array[int]") -> Histogram:
    """Count them in bins of equally many whole numbers, with edges between two of these. A few
    that are much longer than all others share the last bin, which is wider.
    """
    shortest, longest = min(lengths), max(lengths)
    usual = int(np.percentile(lengths, USUAL_PERCENT, method="lower"))
    has_rest = longest - shortest >= FAR_FACTOR * (usual - shortest + 1)
    num_lengths = (usual if has_rest else longest) - shortest + 1
    width = -(-num_lengths // MAX_BINS)
    num_bins = -(-num_lengths // width)
    edges = shortest - 0.5 + width * np.arange(num_bins + 1)
    if has_rest:
        edges = np.append(edges, longest + 0.5)
    counts, _ = np.histogram(lengths, edges)
    return Histogram(edges=edges.tolist(), counts=counts.tolist())


def _fingerprints(path: Path) -> Fingerprints:
    prints = Fingerprints()
    try:
        for line, item in read_records(lines_of_file(path)):
            if not isinstance(item, BadRecord):
                prints.add(line, item.record)
    except OSError as error:
        raise DatasetError(
            f"{path.name} cannot be read: {error.strerror}", "validation_file"
        ) from None
    return prints


def _previews(
    encoded: Encoded, tokenizer: PreTrainedTokenizerBase, at_most: int
) -> Iterator[Preview]:
    num_items = len(encoded.items)
    for number, item in enumerate(encoded.items[:at_most], 1):
        sequences = sequences_of(item)
        texts = [_token_texts(sequence, tokenizer) for sequence in sequences[:PREVIEW_SEQUENCES]]
        is_pair = isinstance(item, Pair)
        num_tokens = len(item) if num_items > 1 else sum(encoded.lengths)
        yield Preview(
            line=encoded.line,
            part=number,
            parts=num_items,
            tokens=texts[0],
            rejected=texts[1] if is_pair else None,
            later_turns=[] if is_pair else texts[1:],
            shortened=num_tokens > sum(map(len, texts)),
        )


def _token_texts(
    sequence: TokenSequence, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, bool]]:
    ids = sequence.input_ids[:PREVIEW_TOKENS].tolist()
    before = ""
    texts = []
    for end, learned in enumerate(sequence.loss_mask[:PREVIEW_TOKENS].tolist(), 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if text.endswith(REPLACEMENT_CHARACTER) and end < len(ids):
            texts.append(("", learned))
        else:
            texts.append((text[len(before) :], learned))
            before = text
    return texts
