"""The end of a turn in the text that a chat template renders."""

from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ControlTokens:
    """The texts that a tokenizer makes control tokens of, wherever they stand. There may be
    thousands, of few `lengths`.
    """

    texts: frozenset[str]
    lengths: tuple[int, ...]


@lru_cache(maxsize=4)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """Return the special tokens of a tokenizer, with the lengths of their texts."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    texts = frozenset({*added, *tokenizer.all_special_tokens} - {""})
    return ControlTokens(texts, tuple(sorted(set(map(len, texts)))))


def end_token(text: str, tokens: ControlTokens) -> str:
    """Return the control token that `text` ends with, or nothing; of several the first by text."""
    ends = (text[-length:] for length in tokens.lengths)
    return min((end for end in ends if end in tokens.texts), default="")


def end_before_prompt(prompt: str, text: str, tokens: ControlTokens) -> int:
    """Return the end of the last turn of `text`, for a template that writes a generation prompt
    behind every chat.

    `prompt`, the text before the turn, ends with that generation prompt as well. The common end of
    both is the generation prompt alone, or begins with the end-of-turn token of both.
    """
    longest = min(len(prompt), len(text) - len(prompt))
    alike = next((size for size in range(longest) if prompt[-size - 1] != text[-size - 1]), longest)
    end = len(text) - alike
    if end_token(text[len(prompt) : end].rstrip(), tokens):
        return len(text[:end].rstrip())
    ends = [place + len(token) for token in tokens.texts if (place := text.find(token, end)) >= 0]
    return min(ends, default=end)
