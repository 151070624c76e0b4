"""What llama.cpp answers, in a process of its own (ask_llama_cpp.py)."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAM = Path(__file__).with_name("ask_llama_cpp.py")
ASK_SECONDS = 120.0
# Answers that are computed together differ from those that are computed alone: in 180,000 tokens of
# nine adapters of falqon-tiny, by up to 0.057 in how far the second best token was behind.
CERTAIN = 0.1

Messages = Sequence[Mapping[str, str]]


def ask_llama_cpp(gguf: Path, messages: Messages, num_tokens: int, *adapters: Path) -> str:
    """Return the most probable answer, with an adapter or without."""
    (answer,) = answers_of(gguf, adapters, messages, num_tokens)
    return answer


def answers_of(
    gguf: Path, adapters: Sequence[Path], messages: Messages, num_tokens: int
) -> list[str]:
    """Return the most probable answer of each adapter; without any, that of the model."""
    return [answer for _, answer in _run(gguf, [messages], num_tokens, 0.0, adapters)]


def certain_answer(
    gguf: Path, adapter: Path, questions: Sequence[Messages], num_tokens: int
) -> tuple[int, str]:
    """Return which of the questions is the first whose answer is the same beside other answers,
    and that answer.
    """
    ((number, answer),) = _run(gguf, questions, num_tokens, CERTAIN, [adapter])
    return number, answer


def _run(
    gguf: Path,
    questions: Sequence[Messages],
    num_tokens: int,
    margin: float,
    adapters: Sequence[Path],
) -> list[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, PROGRAM],
        input=json.dumps([str(gguf), questions, num_tokens, margin, [*map(str, adapters)]]),
        capture_output=True,
        text=True,
        check=False,
        timeout=ASK_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout)
    assert None not in answers, f"none of {len(questions)} questions is answered by {margin}"
    return [(number, answer) for number, answer in answers]
