"""What a data set is to a model: exact token counts, lengths, what is cut, copies and leaks, and the first records token by token.

It reads as training does, through `data.dataset.encode_file`, one record at a time; what is kept of a record are its lengths and its
fingerprint. What is given up: the validation file is only compared, not counted; inspect it by itself for that.
"""

from array import array
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError
from falqon_core.contract.inspection import Histogram, Inspection, Preview
from falqon_core.data.dataset import Encoded, encode_file
from falqon_core.data.duplicates import Fingerprints, duplicates, leakage
from falqon_core.data.sequences import Pair, Sequence
from falqon_core.data.warnings import WarningCounts, control_tokens
from falqon_core.records.file_check import MAX_ERRORS, read_records
from falqon_core.records.jsonl import BadRecord, lines_of_file
from falqon_core.train.model import load_tokenizer

NUM_BINS = 20
PREVIEW_RECORDS = 5
PREVIEW_TOKENS = 512
UNFINISHED = "\ufffd"  # how a tokenizer shows bytes that are no whole character yet


def inspect_dataset(dataset: Path, model: Path, max_seq_length: int, validation_file: Path | None = None) -> Inspection:
    """Raises `DatasetError` for a file of mixed kinds or without a good record, and `ModelError`, as training would."""
    tokenizer = load_tokenizer(model)
    prints, lengths, preview, errors = Fingerprints(), array("Q"), [], []
    warning_counts = WarningCounts(control_tokens(tokenizer))
    records = without_targets = bad_records = truncated = tokens = targets = tokens_cut = 0
    for found in encode_file(dataset, tokenizer, max_seq_length, "training_file"):
        if isinstance(found, DatasetError):
            bad_records += 1
            if len(errors) < MAX_ERRORS:
                errors.append(str(found))
            continue
        records += 1
        prints.add(found.line, found.record)
        warning_counts.add(found.line, found.record, found.rendered)
        lengths.extend(found.lengths)
        truncated += any(found.cut)
        tokens_cut += sum(found.cut)
        if found.item.has_targets:
            tokens += len(found.item)
            targets += found.item.num_labels
        else:
            without_targets += 1
        if len(preview) < PREVIEW_RECORDS:
            preview.append(_preview(found, tokenizer))
    if records == 0:
        raise DatasetError(errors[0] if errors else "the file is empty", "training_file")
    counts, edges = np.histogram(lengths, bins=NUM_BINS)
    return Inspection(
        records=records,
        records_without_targets=without_targets,
        bad_records=bad_records,
        errors=errors,
        sequences=len(lengths),
        tokens_per_epoch=tokens,
        target_tokens_per_epoch=targets,
        max_seq_length=max_seq_length,
        truncated=truncated,
        tokens_cut=tokens_cut,
        longest=max(lengths),
        median=float(np.median(lengths)),
        histogram=Histogram(edges=edges.tolist(), counts=counts.tolist()),
        duplicates=duplicates(prints),
        leakage=leakage(prints, _fingerprints(validation_file)) if validation_file is not None else None,
        preview=preview,
        warnings=warning_counts.warnings(),
    )


def _fingerprints(path: Path) -> Fingerprints:
    prints = Fingerprints()
    try:
        for line, found in read_records(lines_of_file(path)):
            if not isinstance(found, BadRecord):
                prints.add(line, found.record)
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}", "validation_file") from None
    return prints


def _preview(found: Encoded, tokenizer: PreTrainedTokenizerBase) -> Preview:
    sequences = [found.item.chosen, found.item.rejected] if isinstance(found.item, Pair) else [found.item]
    shown = [_pieces(sequence, tokenizer) for sequence in sequences]
    return Preview(
        line=found.line,
        tokens=shown[0],
        rejected=shown[1] if len(shown) > 1 else None,
        shortened=max(found.lengths) > max(map(len, shown)),
    )


def _pieces(sequence: Sequence, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, bool]]:
    ids, before = sequence.input_ids[:PREVIEW_TOKENS].tolist(), ""
    pieces = []
    for end, learned in enumerate(sequence.loss_mask[:PREVIEW_TOKENS].tolist(), 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        if text.endswith(UNFINISHED) and end < len(ids):
            pieces.append(("", learned))
        else:
            pieces.append((text[len(before) :], learned))
            before = text
    return pieces
