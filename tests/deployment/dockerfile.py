"""The Dockerfile as stages of instructions, as far as ours goes: no heredocs, no escapes but the
one at a line's end.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str


@dataclass
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def arguments(self, word: str) -> list[str]:
        return [each.rest for each in self.instructions if each.word == word]


def read_stages(text: str) -> list[Stage]:
    """Split the text of a Dockerfile into its stages."""
    without_comments = "".join(
        line for line in text.splitlines(True) if not line.lstrip().startswith("#")
    )
    stages: list[Stage] = []
    for line in re.sub(r"\\\n", " ", without_comments).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name, base))
        elif word:
            stages[-1].instructions.append(Instruction(word, rest.strip()))
    return stages


def our_stages() -> list[Stage]:
    return read_stages((ROOT / "Dockerfile").read_text())
