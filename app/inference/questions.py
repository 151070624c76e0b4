"""Single requests to engines. Engines count and plan one answer at a time, so each prompt is sent
once for each of its choices. An upstream gets all of a request at once.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BYTES_OF_A_TOKEN = 4  # estimate for a prompt's JSON
PROMPT_FIELDS = ("messages", "tools", "prompt")


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Prompt, and the choice that its answer becomes."""

    fields: dict[str, Any]  # spelled as the engine reads them
    prompt: int  # index among the request's prompts
    choice: int  # index among the choices, of a whole request the first
    is_whole: bool = False  # with all its prompts and choices, as its client wrote it

    def for_engine(self) -> bytes:
        return json.dumps(self.fields).encode()

    def place(self, choices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return choices of its answer with their index: of a whole request, their own."""
        index = {"index": self.choice}
        return [index | choice if self.is_whole else choice | index for choice in choices]


def split(content: bytes) -> list[EngineRequest]:
    """Return the single requests that a request to an engine consists of, in the order of their
    choices.

    With a seed, the choices of a prompt have seeds that follow one another: the first choice is the
    same as if it were alone.
    """
    fields = json.loads(content)
    num_choices = fields.pop("n", 1)
    seed = fields.get("seed")
    questions = []
    for prompt, of_prompt in enumerate(_prompts(fields)):
        for number in range(num_choices):
            of_choice = {} if seed is None else {"seed": seed + number}
            choice = prompt * num_choices + number
            questions.append(EngineRequest(fields | of_prompt | of_choice, prompt, choice))
    return questions


def keep_whole(content: bytes) -> list[EngineRequest]:
    """Return a request as the one that it is, with its n and all its prompts."""
    return [EngineRequest(json.loads(content), 0, 0, is_whole=True)]


def estimate_tokens(questions: Sequence[EngineRequest]) -> list[int]:
    """Return for each prompt an estimate of its tokens, before an engine has counted them."""
    of_prompts = {question.prompt: question.fields for question in questions}
    prompts = [
        {name: fields[name] for name in PROMPT_FIELDS if name in fields}
        for _, fields in sorted(of_prompts.items())
    ]
    return [len(json.dumps(prompt)) // BYTES_OF_A_TOKEN for prompt in prompts]


def _prompts(fields: dict[str, Any]) -> list[dict[str, Any]]:
    prompt = fields.get("prompt")
    if not isinstance(prompt, list) or isinstance(prompt[0], int):  # a text, or its tokens
        return [{}]
    return [{"prompt": each} for each in prompt]
