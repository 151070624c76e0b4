"""Where a turn ends in the text that a chat template writes of it."""

from functools import lru_cache

from transformers import PreTrainedTokenizerBase


@lru_cache(maxsize=4)  # a tokenizer may have thousands
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the texts that the tokenizer makes control tokens of, wherever they stand."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*added, *tokenizer.all_special_tokens} - {""}))


def end_token(text: str, tokens: tuple[str, ...]) -> str:
    """Return the control token that `text` ends with, or nothing."""
    if not text.endswith(tokens):  # of thousands, in one call
        return ""
    return next((token for token in tokens if text.endswith(token)), "")


def end_before_prompt(prompt: str, text: str, tokens: tuple[str, ...]) -> int:
    """Return where the last turn of `text` ends, for a template that writes a generation prompt
    behind every chat.

    `prompt`, the text before the turn, ends with that generation prompt, too. What both end with
    alike is the generation prompt alone, or begins with the end-of-turn token of both.
    """
    longest = min(len(prompt), len(text) - len(prompt))
    alike = next((size for size in range(longest) if prompt[-size - 1] != text[-size - 1]), longest)
    end = len(text) - alike
    if end_token(text[len(prompt) : end].rstrip(), tokens):
        return len(text[:end].rstrip())
    ends = [place + len(token) for token in tokens if (place := text.find(token, end)) >= 0]
    return min(ends, default=end)
