"""Records that a file has twice, or that a validation file shares with the training file.

Exact copies are found by a hash of the whole record. Near copies by MinHash: a record's text,
without system messages, lower-cased and with single spaces, is the set of its pieces of
`PIECE_CHARACTERS` characters; one hash of every piece falls into one of `SIGNATURE_SIZE` buckets,
of which each keeps its smallest (an empty one borrows from the next). Two records agree in a bucket
with the probability of their Jaccard similarity, so the share of buckets in which they agree
estimates it. Candidates are records that agree in all buckets of one of the bands; each is compared
with the first of its band's group only, which keeps the work linear. Memory: 144 bytes a record.
Similarity beyond the first `MAX_COMPARED_CHARACTERS` of a record and among records past
`MAX_COMPARED_RECORDS` is not seen.
"""

import hashlib
from array import array
from collections.abc import Iterator

import numpy as np

from falqon_core.contract.inspection import Alike, Duplicates, Leakage, Likeness
from falqon_core.records.shapes import (
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    Record,
    TextRecord,
)

NEAR_THRESHOLD = 0.8
PIECE_CHARACTERS = 8
MAX_COMPARED_CHARACTERS = 100_000
MAX_COMPARED_RECORDS = 500_000
MAX_EXAMPLES = 20
BUCKET_BITS = 6
SIGNATURE_SIZE = 2**BUCKET_BITS
BAND_SIZE = 4  # 16 bands of 4: a pair of similarity 0.8 meets in one with probability 0.9998
PAIRS_PER_BLOCK = 65_536

_POWERS = np.array(
    [pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(PIECE_CHARACTERS)], dtype=np.uint64
)
_BOUNDS = np.arange(SIGNATURE_SIZE, dtype=np.uint64) << np.uint64(64 - BUCKET_BITS)


class Fingerprints:
    """Fingerprints of the records of one file."""

    def __init__(self) -> None:
        self._lines = array("Q")
        self._hashes = array("Q")
        self._signatures = bytearray()

    def add(self, line: int, record: Record) -> None:
        """Add a record of the given line."""
        self._lines.append(line)
        digest = hashlib.blake2b(
            record.model_dump_json(exclude_none=True).encode(), digest_size=8
        ).digest()
        self._hashes.append(int.from_bytes(digest, "little"))
        if len(self._lines) <= MAX_COMPARED_RECORDS:
            self._signatures += signature(_content_of(record)).tobytes()

    @property
    def lines(self) -> np.ndarray:
        """Return the line of each record, uint64 [N]."""
        return np.array(self._lines, dtype=np.uint64)

    @property
    def hashes(self) -> np.ndarray:
        """Return a hash of each record, uint64 [N]."""
        return np.array(self._hashes, dtype=np.uint64)

    @property
    def signatures(self) -> np.ndarray:
        """Return the MinHash signatures of the first `MAX_COMPARED_RECORDS` records, uint16 [M,
        SIGNATURE_SIZE].
        """
        return np.frombuffer(bytes(self._signatures), dtype=np.uint16).reshape(-1, SIGNATURE_SIZE)


def duplicates(prints: Fingerprints) -> Duplicates:
    """Return the exact copies and the near copies within one file."""
    first = _first_with_hash(prints.hashes)
    copied = np.where(first < np.arange(len(first)), first, -1)
    near, similarity = most_similar(prints.signatures)
    near[copied[: len(near)] >= 0] = -1
    return Duplicates(
        exact=_alike(prints.lines, prints.lines, copied, None),
        near=_alike(prints.lines, prints.lines, near, similarity),
        near_threshold=NEAR_THRESHOLD,
        near_compared=len(near),
    )


def leakage(training: Fingerprints, validation: Fingerprints) -> Leakage:
    """Return the validation records that are copies, or near copies, of training records."""
    num_training = len(training.lines)
    num_compared = len(training.signatures)
    first = _first_with_hash(np.concatenate([training.hashes, validation.hashes]))[num_training:]
    copied = np.where(first < num_training, first, -1)
    both = np.concatenate([training.signatures, validation.signatures])
    near, similarity = (
        values[num_compared:] for values in most_similar(both, num_references=num_compared)
    )
    near[copied[: len(near)] >= 0] = -1
    return Leakage(
        validation_records=len(validation.lines),
        exact=_alike(validation.lines, training.lines, copied, None),
        near=_alike(validation.lines, training.lines, near, similarity),
        near_threshold=NEAR_THRESHOLD,
    )


def signature(text: str) -> np.ndarray:
    """uint16 [SIGNATURE_SIZE]."""
    text = " ".join(text[:MAX_COMPARED_CHARACTERS].lower().split()).ljust(PIECE_CHARACTERS)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    count = len(codes) - PIECE_CHARACTERS + 1
    pieces = _mix(
        np.lib.stride_tricks.sliding_window_view(codes, PIECE_CHARACTERS)[:count] @ _POWERS
    )
    pieces.sort()
    starts = np.searchsorted(pieces, _BOUNDS)
    filled = starts < np.append(starts[1:], len(pieces))
    where = np.flatnonzero(filled)
    nearest = where[np.searchsorted(where, np.arange(SIGNATURE_SIZE)) % len(where)]
    distance = (nearest - np.arange(SIGNATURE_SIZE)) % SIGNATURE_SIZE
    return _mix(pieces[starts[nearest]] + distance.astype(np.uint64)).astype(np.uint16)


def most_similar(
    signatures: np.ndarray, num_references: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return, per record, the index of an earlier similar one (-1: none), and the similarity.

    With `num_references`, only the first so many count as earlier, and only for those after them.
    """
    other = np.full(len(signatures), -1, dtype=np.int64)
    similarity = np.zeros(len(signatures), dtype=np.float32)
    for record, earlier in _candidates(signatures):
        if num_references is not None:
            across = (record >= num_references) & (earlier < num_references)
            record = record[across]
            earlier = earlier[across]
        agreement = (signatures[record] == signatures[earlier]).mean(axis=1, dtype=np.float32)
        better = (agreement >= NEAR_THRESHOLD) & (agreement > similarity[record])
        other[record[better]] = earlier[better]
        similarity[record[better]] = agreement[better]
    return other, similarity


def _first_with_hash(hashes: np.ndarray) -> np.ndarray:
    """Return per record the index of the first that has the same hash, which may be itself."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse]


def _candidates(signatures: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(record, the first record that agrees with it in a whole band); a record comes at most once
    in each of these pairs of arrays.
    """
    for start in range(0, SIGNATURE_SIZE, BAND_SIZE):
        keys = (
            np.ascontiguousarray(signatures[:, start : start + BAND_SIZE]).view(np.uint64).ravel()
        )
        order = np.argsort(keys, kind="stable")
        begins = np.append(True, keys[order[1:]] != keys[order[:-1]])[: len(order)]
        firsts = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        members = np.flatnonzero(~begins)
        for chunk in np.array_split(members, len(members) // PAIRS_PER_BLOCK + 1):
            yield order[chunk], firsts[chunk]


def _alike(
    lines: np.ndarray, other_lines: np.ndarray, other: np.ndarray, similarity: np.ndarray | None
) -> Alike:
    matches = np.flatnonzero(other >= 0)
    examples = [
        Likeness(
            line=int(lines[index]),
            like_line=int(other_lines[other[index]]),
            similarity=1.0 if similarity is None else round(float(similarity[index]), 2),
        )
        for index in matches[:MAX_EXAMPLES]
    ]
    return Alike(records=len(matches), examples=examples)


def _content_of(record: Record) -> str:
    match record:
        case ChatRecord():
            return "\n".join(
                message.text for message in record.messages if message.role != "system"
            )
        case CompletionRecord():
            return f"{record.prompt}\n{record.completion}"
        case TextRecord():
            return record.text
        case PreferenceRecord():
            prompt = record.input.messages
            (preferred,) = record.preferred_output
            (other,) = record.non_preferred_output
            return "\n".join(
                message.text for message in [*prompt, preferred, other] if message.role != "system"
            )


def _mix(hashes: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer: every bit of the result depends on every bit."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
