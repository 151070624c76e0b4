"""Token sequences of a record, one or several: token ids [n] and a mask of the tokens that are
targets.

The text is tokenized once, whole; character ranges become token ranges by the tokenizer's offsets.
Before each learned range the prompt must tokenize to the same tokens as it will alone in serving.
It is tokenized again only from its last special token on, because special tokens cut the text
before any merging; short tails are few and are cached. Where a completion melts into its prompt's
last token ("A: " + "yes"), the two are tokenized apart; a chat whose answer does so is refused,
since its template is to blame. Tokenizers without offsets (no tokenizer.json) are refused. A
tokenizer that puts a space before any text puts one before a completion that is tokenized apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError, ModelError
from falqon_core.data.chat_template import LearnedText, Rendered, render
from falqon_core.records.shapes import SupervisedRecord

# Longer tails, and more of them, are prompts: of plain text, or of a template without special
# tokens behind the question. Each is another one.
MAX_TAIL_CHARACTERS = 200
MAX_TAILS = 1000


@dataclass(frozen=True)
class TokenSequence:
    """`input_ids` int32 [n]; `loss_mask` bool [n]: token t is a training target (token 0 never is:
    nothing predicts it).
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def largest_token_id(self) -> int:
        """Return the largest token id, 0 for an empty sequence."""
        return int(self.input_ids.max(initial=0))

    @property
    def num_labels(self) -> int:
        """Count the positions with loss: nothing predicts the first token."""
        return int(self.loss_mask[1:].sum())

    @property
    def has_targets(self) -> bool:
        """True where at least one token is learned."""
        return self.num_labels > 0


@dataclass(frozen=True)
class SequenceGroup:
    """The sequences of one record, which share an optimizer step; each has targets."""

    sequences: tuple[TokenSequence, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def largest_token_id(self) -> int:
        """Return the largest token id of all sequences."""
        return max(sequence.largest_token_id for sequence in self.sequences)

    @property
    def num_labels(self) -> int:
        """Return the number of positions with loss of all sequences."""
        return sum(sequence.num_labels for sequence in self.sequences)

    @property
    def has_targets(self) -> bool:
        """True where at least one token is learned."""
        return self.num_labels > 0


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt. `reference`: the log-probabilities (nats) of the targets of both
    under the model before the first step, None until they are computed.
    """

    chosen: TokenSequence
    rejected: TokenSequence
    reference: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def largest_token_id(self) -> int:
        """Return the largest token id of both answers."""
        return max(self.chosen.largest_token_id, self.rejected.largest_token_id)

    @property
    def num_pairs(self) -> int:
        """Return 1."""
        return 1

    @property
    def num_labels(self) -> int:
        """Return the number of positions with loss of both answers."""
        return self.chosen.num_labels + self.rejected.num_labels

    @property
    def has_targets(self) -> bool:
        """Check that both answers have targets in the part that was kept, and differ there."""
        differ = not np.array_equal(self.chosen.input_ids, self.rejected.input_ids)
        return differ and self.chosen.has_targets and self.rejected.has_targets


Item = TokenSequence | SequenceGroup | Pair  # The sequences of one record.


def sequences_of(item: Item) -> tuple[TokenSequence, ...]:
    """Return the sequences that the model reads; of a pair the chosen answer comes first."""
    match item:
        case TokenSequence():
            return (item,)
        case SequenceGroup():
            return item.sequences
        case Pair():
            return (item.chosen, item.rejected)


@dataclass(frozen=True)
class Tokens:
    """One tokenized text without begin or end token: `ids` int32 [n], `starts` and `ends` int [n]
    in characters.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, slots=True)
class Encoding:
    """One encoded record. `lengths`: the tokens of each sequence before it was cut, also of those
    that are left out because all their targets were cut off.
    """

    item: TokenSequence | SequenceGroup
    lengths: list[int]

    @property
    def num_cut(self) -> int:
        """Return the number of tokens that were cut off."""
        return sum(self.lengths) - len(self.item)


def encode(
    record: SupervisedRecord, tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> Encoding:
    """Encode one record, each sequence cut on the right to `max_seq_length` tokens.

    Raises `DatasetError` where template or tokenizer cannot render the record as serving will, and
    `ModelError` where the tokenizer lacks a token that the record needs.
    """
    encoder = Encoder(tokenizer, max_seq_length)
    rendered = render(record, tokenizer)
    return encoder.encode(rendered, next(encoder.tokenize([rendered.text])))


class Encoder:
    """An encoder of many records; the tokenizer's properties are computed once."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_seq_length: int,
        text_overlap_tokens: int | None = 0,
    ) -> None:
        """`text_overlap_tokens`: None cuts long texts instead of splitting them."""
        if not tokenizer.is_fast:
            raise ModelError(
                "the model has no tokenizer.json, which is needed to place the loss on the right "
                "tokens"
            )
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self.text_overlap_tokens = text_overlap_tokens
        self.begin_ids = _begin_ids(tokenizer)
        self._special_ids = np.array(sorted(tokenizer.added_tokens_decoder), dtype=np.int32)
        self._tails: dict[str, list[int]] = {}

    def tokenize(self, texts: list[str]) -> Iterator[Tokens]:
        """Yield the tokens of each text, with their character ranges."""
        batch = self.tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True):
            places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
            yield Tokens(np.array(ids, dtype=np.int32), places[:, 0], places[:, 1])

    def encode(self, rendered: Rendered, tokens: Tokens) -> Encoding:
        """Mask and cut a record, whose text is tokenized; see `encode`."""
        sequences = self.whole_sequences(rendered, tokens)
        limit = self.max_seq_length
        cut = [
            TokenSequence(whole.input_ids[:limit], whole.loss_mask[:limit]) for whole in sequences
        ]
        kept = [sequence for sequence in cut if sequence.has_targets] or cut[:1]
        item = kept[0] if len(kept) == 1 else SequenceGroup(tuple(kept))
        return Encoding(item, [len(sequence) for sequence in sequences])

    def whole_sequences(self, rendered: Rendered, tokens: Tokens) -> list[TokenSequence]:
        """Mask a record, whose text is tokenized, as far as something of it is kept."""
        parts = rendered.find_learned(self._last_start(rendered, tokens))
        others = [part.text for part in parts if part.text != rendered.text]
        tokenized = self.tokenize(others) if others else iter(())
        sequences = []
        for part in parts:
            own = tokens if part.text == rendered.text else next(tokenized)
            sequences.append(self._sequence(part, own, rendered.plain))
        return sequences

    def _sequence(self, part: LearnedText, tokens: Tokens, plain: bool) -> TokenSequence:
        """Place the loss on a tokenized text. `tokens`: of the text."""
        specials = np.flatnonzero(np.isin(tokens.ids, self._special_ids))
        for start, _ in part.spans:
            if not self._is_boundary(part.text, tokens, specials, start):
                if not plain:
                    raise _melts(part.text, start)
                tokens = self._tokenize_apart(part.text, start)
        ids = tokens.ids
        mask = np.zeros(len(tokens.ids), dtype=bool)
        for start, end in part.spans:
            mask[np.searchsorted(tokens.starts, start) : np.searchsorted(tokens.starts, end)] = True
        if plain:
            ids = np.array([*self.begin_ids, *ids, self._end_id()], dtype=np.int32)
            mask = np.array([*[False] * len(self.begin_ids), *mask, True])
        mask[:1] = False
        return TokenSequence(ids, mask)

    def _last_start(self, rendered: Rendered, tokens: Tokens) -> int:
        """Return the last character at which a target may start so that a part of it is kept."""
        is_cut = not rendered.plain and len(tokens.ids) > self.max_seq_length
        if is_cut:
            return int(tokens.starts[self.max_seq_length - 1])
        return len(rendered.text)

    def _is_boundary(self, text: str, tokens: Tokens, specials: np.ndarray, start: int) -> bool:
        """Check that the tokens before `start` are those of the text before it alone. `specials`:
        the indices of special tokens.
        """
        first = int(np.searchsorted(tokens.starts, start))
        num_before = int(np.searchsorted(specials, first))
        tail = int(specials[num_before - 1]) if num_before else 0
        prompt = text[tokens.starts[tail] if num_before else 0 : start]
        return self._tail_ids(prompt) == tokens.ids[tail:first].tolist()

    def _tail_ids(self, tail: str) -> list[int]:
        ids = self._tails.get(tail)
        if ids is None:
            ids = self.tokenizer(tail, add_special_tokens=False, verbose=False)["input_ids"]
            if len(tail) <= MAX_TAIL_CHARACTERS and len(self._tails) < MAX_TAILS:
                self._tails[tail] = ids
        return ids

    def _tokenize_apart(self, text: str, start: int) -> Tokens:
        before, after = self.tokenize([text[:start], text[start:]])
        return Tokens(
            np.concatenate([before.ids, after.ids]),
            np.concatenate([before.starts, after.starts + start]),
            np.concatenate([before.ends, after.ends + start]),
        )

    def _end_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "the model's tokenizer has no end-of-sequence token, which plain text and "
                "prompt/completion need"
            )
        return self.tokenizer.eos_token_id


def _melts(text: str, start: int) -> DatasetError:
    return DatasetError(
        f"the tokenizer joins the end of the prompt {text[max(0, start - 12) : start]!r} with the "
        f"start of what follows {text[start : start + 12]!r}, so the trained tokens would not be "
        "the served ones; move the white space between them to the other side or remove it"
    )


def _begin_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the tokenizer puts before any plain text: usually one, or none."""
    body = tokenizer("a", add_special_tokens=False)["input_ids"]
    if not body:
        raise ModelError("the model's tokenizer is empty: it finds no token in 'a'")
    whole = tokenizer("a")["input_ids"]
    return whole[: whole.index(body[0])]
