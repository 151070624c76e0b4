"""The questions of a request. Engines count and plan one answer at a time, so each prompt is sent
once for each of its choices.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.inference.schemas import CompletionRequest, InferenceRequest

BYTES_OF_A_TOKEN = 4  # of a prompt's JSON, as an estimate
OF_A_PROMPT = {"messages", "tools", "prompt"}


class Question(NamedTuple):
    """A prompt, and the choice that its answer becomes."""

    body: InferenceRequest
    prompt: int  # its number among the request's
    choice: int  # its number among the answers

    def for_engine(self) -> bytes:
        return self.body.for_engine()


def split(body: InferenceRequest) -> list[Question]:
    """Return the questions in the order of their choices. Where there is a seed, the choices of a
    prompt have seeds that follow one another: the first one is answered as if it were alone.
    """
    num_choices = body.n or 1
    questions = []
    for prompt, update in enumerate(_prompts(body)):
        for number in range(num_choices):
            if body.seed is not None:
                update = update | {"seed": body.seed + number}
            alone = body.model_copy(update=update | {"n": None})
            questions.append(Question(alone, prompt, prompt * num_choices + number))
    return questions


def estimate_tokens(questions: Sequence[Question]) -> list[int]:
    """Return for each prompt how many tokens it may have, before an engine has counted them."""
    first = {question.prompt: question.body for question in reversed(questions)}
    return [_num_bytes(first[prompt]) // BYTES_OF_A_TOKEN for prompt in sorted(first)]


def _prompts(body: InferenceRequest) -> list[dict[str, Any]]:
    if isinstance(body, CompletionRequest) and isinstance(body.prompt, list):
        return [{"prompt": prompt} for prompt in body.prompt]
    return [{}]


def _num_bytes(body: InferenceRequest) -> int:
    return len(body.model_dump_json(include=OF_A_PROMPT, exclude_none=True).encode())
