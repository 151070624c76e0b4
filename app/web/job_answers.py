"""Answers of a model in training to validation prompts, for a page: the newest answer beside the
expected one, and the prompt as a conversation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.jobs.history import SamplePrompt

# Templates write a role on a line of its own, or before a colon. What marks it for the model is no
# part of the text.
ROLE = re.compile(
    r"^(system|developer|user|assistant|model|tool)(?::[ \t]*|[ \t]*\n+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    step: int
    text: str
    is_exact: bool


@dataclass(frozen=True, slots=True)
class AnsweredPrompt:
    turns: list[Turn]
    expected: str
    newest: Answer
    older: list[Answer]  # the newest of them first


def answered(prompts: Sequence[SamplePrompt]) -> list[AnsweredPrompt]:
    return [_answered(prompt) for prompt in prompts]


def read_turns(prompt: str) -> list[Turn]:
    """Split a prompt into turns; one without roles is the user's."""
    marks = list(ROLE.finditer(prompt))
    if not marks:
        return [Turn("user", prompt)]
    turns = [Turn("system", prompt[: marks[0].start()].strip())]
    ends = [mark.start() for mark in marks[1:]] + [len(prompt)]
    turns += [
        Turn(mark[1], prompt[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    ]
    return [turn for turn in turns if turn.text]


def _answered(prompt: SamplePrompt) -> AnsweredPrompt:
    newest, *older = (
        Answer(step, text, text.strip() == prompt.expected.strip())
        for step, text in reversed(prompt.completions)
    )
    return AnsweredPrompt(read_turns(prompt.prompt), prompt.expected, newest, older)
