"""Responses of `/v1/completions` in their own format: `logprobs` as four lists, and the prompt in
front if the client requests its echo.
"""

from dataclasses import dataclass
from typing import Any

from app.inference.rewriting import Document, Rewriter


@dataclass(frozen=True, slots=True)
class TokenScore:
    token: str
    logprob: float | None  # None: nothing stands before it
    top: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class Echo:
    """Prompt that is returned before its answer. `scores` is None if no logprobs are requested."""

    text: str
    num_tokens: int
    scores: list[TokenScore] | None


class CompletionRewriter(Rewriter):
    def __init__(self, num_top: int | None, echoes: list[Echo]) -> None:
        """Create the scorer. `num_top`: number of the likeliest tokens in each place; None: no
        logprobs are requested.
        """
        self._num_top = num_top
        self._echoes = echoes
        self._offsets: dict[int, int] = {}  # length of the text so far, for each choice of a stream

    def rewrite(self, document: Document) -> None:
        for choice in document["choices"]:
            self._rewrite(choice, 0)
        if not self._echoes:
            return
        for choice in document["choices"]:
            echo = self._echoes[choice["index"]]
            choice["text"] = echo.text + choice["text"]
        usage = document.get("usage") or {}
        usage["prompt_tokens"] = sum(echo.num_tokens for echo in self._echoes)
        usage["total_tokens"] = usage["prompt_tokens"] + usage.get("completion_tokens", 0)
        document["usage"] = usage

    def rewrite_event(self, event: Document) -> list[Document]:
        for choice in event["choices"]:
            index = choice.get("index", 0)
            offset = self._offsets.get(index, 0)
            self._rewrite(choice, offset)
            self._offsets[index] = offset + len(choice.get("text") or "")
        return [event]

    def _rewrite(self, choice: Document, offset: int) -> None:
        """Write the choice's logprobs as four lists. One that has them stays as it is."""
        if self._num_top is None:
            return
        written = choice.get("logprobs")
        if isinstance(written, dict) and "content" not in written:
            return
        content = written["content"] if written else []
        scores = [score_of(each, self._num_top) for each in content or []]
        if self._echoes:
            scores = (self._echoes[choice["index"]].scores or []) + scores
        choice["logprobs"] = four_lists(scores, offset)


def score_of(written: dict[str, Any], num_top: int) -> TokenScore:
    """Return the score of a token from llama.cpp's response: the likeliest tokens, and the token
    itself, by their texts.
    """
    top: dict[str, float] = {}
    for each in [*(written.get("top_logprobs") or [])[:num_top], written]:
        top.setdefault(each["token"], each["logprob"])
    return TokenScore(written["token"], written["logprob"], top)


def four_lists(scores: list[TokenScore], offset: int) -> Document:
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += len(score.token)
    return {
        "tokens": [score.token for score in scores],
        "token_logprobs": [score.logprob for score in scores],
        "top_logprobs": [score.top for score in scores],
        "text_offset": offsets,
    }
