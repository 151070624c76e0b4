"""Echo of a prompt, with the log probability of each of its tokens, from llama.cpp.

Its server gives log probabilities of generated tokens alone. So it has to generate the prompt: a
grammar of token ids leaves it no other choice, and the reported probability is the model's own,
before the grammar.
"""

import time
import uuid
from http import HTTPStatus
from typing import Any

import httpx

from app.base.errors import InvalidRequest
from app.inference.completions import Echo, TokenScore, score_of
from app.inference.engine_traits import EngineTraits, Post
from app.inference.refusals import NO_SUCH_TOKENS, refusal_of
from app.inference.rewriting import Document
from app.inference.schemas import CompletionRequest

MAX_ENDS = 32  # tokens within a prompt that end answers; each takes a request of its own
CERTAIN_BIAS = 10_000  # a bias that no other token outweighs
ECHO_NOT_POSSIBLE = (
    "echo: llama.cpp, the engine of this model, gives no log probabilities of this prompt, because "
    "a token of it ends within a character, or ends answers. vLLM gives them; docs/engines.md says "
    "how it is used."
)


async def echo_prompts(body: CompletionRequest, traits: EngineTraits, post: Post) -> list[Echo]:
    """Return the echo of each prompt. Raises `InvalidRequest`."""
    if body.stream:
        raise _refusal("not in a stream with llama.cpp, the engine of this model")
    if (body.n or 1) > 1:
        raise _refusal("with one answer a prompt, n of 1, with this engine")
    return [await _echo(prompt, body.logprobs, traits, post) for prompt in body.prompts]


async def _echo(
    prompt: str | list[int], num_top: int | None, traits: EngineTraits, post: Post
) -> Echo:
    first = 0  # number of the prompt's own tokens
    if isinstance(prompt, str):
        text, ids = prompt, await _tokenize(prompt, post, add_special=False)
        with_special = await _tokenize(prompt, post, add_special=True)
        if with_special[1:] == ids:
            first, ids = 1, with_special
    else:
        text, ids = await _detokenize(prompt, post), prompt
    if num_top is None:
        return Echo(text, len(ids), None)
    if traits.context is not None and len(ids) > traits.context:
        raise InvalidRequest(
            f"prompt: {len(ids)} tokens are more than the context of {traits.context}.",
            param="prompt",
            code="context_length_exceeded",
        )
    eos = await _tokenize(traits.eos, post, add_special=False) if traits.eos else []
    ends = frozenset(eos if len(eos) == 1 else ())
    scores = await _score(ids, max(first, 1), num_top, ends, post)
    if first == 0 and ids:
        start = await _detokenize(ids[:1], post)
        scores.insert(0, TokenScore(start, None, None))
    return Echo(text, len(ids), scores)


async def _score(
    ids: list[int], start: int, num_top: int, ends: frozenset[int], post: Post
) -> list[TokenScore]:
    """Return the scores of the tokens from `start` on."""
    if sum(token in ends for token in ids[start:]) > MAX_ENDS:
        raise InvalidRequest(ECHO_NOT_POSSIBLE, param="echo", code="echo_not_possible")
    scores: list[TokenScore] = []
    while start < len(ids):
        stop = next((i for i in range(start, len(ids)) if ids[i] in ends), len(ids))
        stop = max(stop, start + 1)
        forced: dict[str, Any] = {"logit_bias": {str(ids[start]): CERTAIN_BIAS}}
        if ids[start] not in ends:
            forced = {"grammar": "root ::= " + " ".join(f"<[{id_}]>" for id_ in ids[start:stop])}
        scores += await _write(ids[:start], ids[start:stop], forced, num_top, post)
        start = stop
    return scores


async def _write(
    before: list[int], ids: list[int], forced: dict[str, Any], num_top: int, post: Post
) -> list[TokenScore]:
    question = {
        "prompt": before,
        "max_tokens": len(ids),
        "temperature": 0,
        "logprobs": max(1, num_top),
    }
    answer = await post("/v1/completions", question | forced)
    if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and b"grammar" in answer.content:
        raise InvalidRequest(ECHO_NOT_POSSIBLE, param="echo", code="echo_not_possible")
    content = ((_read(answer)["choices"][0].get("logprobs") or {}).get("content")) or []
    if [each.get("id") for each in content] != ids:
        raise InvalidRequest(ECHO_NOT_POSSIBLE, param="echo", code="echo_not_possible")
    return [score_of(each, num_top) for each in content]


async def _tokenize(text: str, post: Post, *, add_special: bool) -> list[int]:
    fields = {"content": text, "add_special": add_special, "parse_special": True}
    tokens: list[int] = _read(await post("/tokenize", fields))["tokens"]
    return tokens


async def _detokenize(ids: list[int], post: Post) -> str:
    answer = await post("/detokenize", {"tokens": ids})
    if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:  # an id beyond the vocabulary
        raise InvalidRequest(NO_SUCH_TOKENS, param="prompt")
    return str(_read(answer)["content"])


def _read(answer: httpx.Response) -> Document:
    if answer.status_code != HTTPStatus.OK:
        raise refusal_of(answer.status_code, answer.content, "prompt")
    document: Document = answer.json()
    return document


def _refusal(message: str) -> InvalidRequest:
    return InvalidRequest(f"echo: {message}.", param="echo", code="unsupported_parameter")


def without_answers(model: str, echoes: list[Echo]) -> Document:
    """Return a response that holds the prompts alone."""
    choices = [
        {"index": i, "text": "", "logprobs": None, "finish_reason": "length"}
        for i in range(len(echoes))
    ]
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": {"completion_tokens": 0},
    }
