"""What llama.cpp answers, in a process of its own (ask_llama_cpp.py)."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAM = Path(__file__).with_name("ask_llama_cpp.py")
ASK_SECONDS = 120.0

Messages = Sequence[Mapping[str, str]]


def ask_llama_cpp(gguf: Path, messages: Messages, num_tokens: int, *adapters: Path) -> str:
    """Return the most probable answer, with an adapter or without."""
    (answer,) = answers_of(gguf, adapters, messages, num_tokens)
    return answer


def answers_of(
    gguf: Path, adapters: Sequence[Path], messages: Messages, num_tokens: int
) -> list[str]:
    """Return the most probable answer of each adapter; without any, that of the model."""
    arguments = [gguf, json.dumps(messages), num_tokens, *adapters]
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=ASK_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[str] = json.loads(done.stdout)
    return answers
