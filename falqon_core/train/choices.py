"""The accuracy of a model on multiple-choice questions, without examples: which of the letters A to
D it holds for the likeliest next token.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError
from falqon_core.data.loader import row_multiple
from falqon_core.data.microbatch import microbatches
from falqon_core.data.sequences import TokenSequence
from falqon_core.objectives.loss import states_and_labels

LETTERS = "ABCD"
MICROBATCH_TOKENS = 4096


class ChoiceQuestion(NamedTuple):
    """`text` ends where the letter is to follow."""

    text: str
    letter: str


@dataclass(frozen=True)
class ChoiceAccuracy:
    """`share` of the questions that were answered rightly, 0 to 1."""

    share: float
    num_questions: int

    @property
    def standard_error(self) -> float:
        """Return the standard error of the share."""
        return math.sqrt(self.share * (1 - self.share) / self.num_questions)


def read_questions(path: Path, limit: int) -> list[ChoiceQuestion]:
    """Read up to `limit` lines {"input": question, "output": letter}, spread evenly over the file.
    Raises `DatasetError`.
    """
    lines = [
        (number, line)
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1)
        if line and not line.isspace()
    ]
    questions = []
    for number, line in lines[:: max(1, math.ceil(len(lines) / limit))]:
        try:
            row = json.loads(line)
            question = ChoiceQuestion(row["input"], row["output"].strip())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DatasetError(
                f'{path.name}, line {number}: not {{"input": a question, "output": a letter}}',
                "questions",
            ) from None
        if question.letter not in set(LETTERS):
            raise DatasetError(
                f"{path.name}, line {number}: the output is none of {', '.join(LETTERS)}",
                "questions",
            )
        questions.append(question)
    if not questions:
        raise DatasetError(f"{path.name} holds no question", "questions")
    return questions


@torch.no_grad()
def measure_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[ChoiceQuestion]
) -> ChoiceAccuracy:
    """Return the share of questions whose right letter is the most probable next token."""
    letters = [
        tokenizer(f" {letter}", add_special_tokens=False)["input_ids"][-1] for letter in LETTERS
    ]
    sequences = []
    for question in questions:
        ids = [*tokenizer(question.text)["input_ids"], letters[LETTERS.index(question.letter)]]
        mask = np.zeros(len(ids), dtype=bool)
        mask[-1] = True
        sequences.append(TokenSequence(np.array(ids, dtype=np.int32), mask))
    longest = max(map(len, sequences))
    batches = microbatches(
        sequences,
        max(MICROBATCH_TOKENS, longest),
        packing=True,
        multiple_of=row_multiple(model.device),
    )
    choices = torch.tensor(letters, device=model.device)
    num_right = 0
    for batch in batches:
        hidden, head, labels = states_and_labels(model, batch)
        chosen = choices[head.logits(hidden)[:, choices].argmax(1)]
        num_right += int((chosen == labels).sum())
    return ChoiceAccuracy(num_right / len(sequences), len(sequences))
