"""A record becomes a `Sequence`: token ids [n] and, per token, whether it is a training target.

The text is tokenized once, whole; character ranges become token ranges by the tokenizer's offsets. Before each learned range
the prompt must tokenize to the same tokens as it will alone in serving. It is tokenized again only from its last special token
on, because special tokens cut the text before any merging; those tails are few and are remembered.
What is given up: tokenizers without offsets (no tokenizer.json), and records whose answer melts into the prompt's last token.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from falqon_core.data.rendering import Rendered, render
from falqon_core.spec.errors import DatasetError, ModelError
from falqon_core.spec.records import Record


@dataclass(frozen=True)
class Sequence:
    """`input_ids` int32 [n]; `loss_mask` bool [n]: token t is a training target (token 0 never is: nothing predicts it)."""

    input_ids: np.ndarray
    loss_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def has_targets(self) -> bool:
        return bool(self.loss_mask.any())

    @property
    def num_labels(self) -> int:
        return int(self.loss_mask.sum())


@dataclass(frozen=True)
class Tokens:
    """One tokenized text without begin or end token: `ids` int32 [n], `starts` and `ends` int [n] in characters."""

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def encode(record: Record, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> tuple[Sequence, bool]:
    """The sequence, cut on the right to `max_seq_length` tokens, and whether it was cut.

    Raises `DatasetError` when template or tokenizer cannot render the record as serving will, and `ModelError` when the
    tokenizer lacks what the record needs.
    """
    encoder = Encoder(tokenizer, max_seq_length)
    rendered = render(record, tokenizer)
    return encoder.sequence(rendered, next(encoder.tokenize([rendered.text])))


class Encoder:
    """What `encode` needs of the tokenizer, worked out once for many records."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> None:
        if not tokenizer.is_fast:
            raise ModelError("the model has no tokenizer.json, which is needed to place the loss on the right tokens", "model")
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self._begin = _begin_ids(tokenizer)
        self._special_ids = np.array(sorted(tokenizer.added_tokens_decoder), dtype=np.int32)
        self._tails: dict[str, list[int]] = {}

    def tokenize(self, texts: list[str]) -> Iterator[Tokens]:
        batch = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True):
            places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
            yield Tokens(np.array(ids, dtype=np.int32), places[:, 0], places[:, 1])

    def sequence(self, rendered: Rendered, tokens: Tokens) -> tuple[Sequence, bool]:
        """Mask and cut one tokenized text; see `encode`."""
        mask = np.zeros(len(tokens.ids), dtype=bool)
        for start, end in rendered.targets:
            first = int(np.searchsorted(tokens.starts, start))
            self._check_boundary(rendered.text, tokens, start, first)
            mask[first : np.searchsorted(tokens.starts, end)] = True
        ids = tokens.ids
        if rendered.plain:
            ids = np.array([*self._begin, *ids, self._end_id()], dtype=np.int32)
            mask = np.array([*[False] * len(self._begin), *mask, True])
        mask[:1] = False
        limit = self.max_seq_length
        return Sequence(ids[:limit], mask[:limit]), len(ids) > limit

    def _check_boundary(self, text: str, tokens: Tokens, start: int, first: int) -> None:
        specials = np.flatnonzero(np.isin(tokens.ids[:first], self._special_ids))
        tail = int(specials[-1]) if len(specials) else 0
        prompt = text[tokens.starts[tail] if len(specials) else 0 : start]
        if prompt not in self._tails:
            self._tails[prompt] = self.tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"]
        if self._tails[prompt] != tokens.ids[tail:first].tolist():
            raise DatasetError(
                f"the tokenizer joins the end of the prompt {prompt[-12:]!r} with the start of what follows {text[start : start + 12]!r}, "
                "so the trained tokens would not be the served ones; move the white space between them to the other side or remove it",
                "training_file",
            )

    def _end_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise ModelError("the model's tokenizer has no end-of-sequence token, which plain text and prompt/completion need", "model")
        return self.tokenizer.eos_token_id


def _begin_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts before any plain text: usually one begin-of-sequence token, or none."""
    body = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return whole[: whole.index(body[0])]
