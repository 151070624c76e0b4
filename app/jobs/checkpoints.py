"""Checkpoints as users name them. Pure, and free of the web framework: the worker keeps the best
one by the same rule.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.models import Checkpoint

NAME_PATTERN = re.compile(
    r"(?P<model>ft:.+(?P<job_tail>[0-9a-f]{8})):ckpt-step-(?P<step>[0-9]{1,9})"
)


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """Parts of `<fine-tuned model>:ckpt-step-<step>`; `job_tail` are the last characters of its
    job's id.
    """

    model_id: str
    job_tail: str
    step: int

    @classmethod
    def parse(cls, text: str) -> "CheckpointName | None":
        match = NAME_PATTERN.fullmatch(text)
        if match is None:
            return None
        return cls(match["model"], match["job_tail"], int(match["step"]))


def checkpoint_name(model_id: str, step: int) -> str:
    return f"{model_id}:ckpt-step-{step}"


def best_of(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return the earliest checkpoint with the lowest validation loss, by the trainer's own rule."""
    evaluated = [checkpoint for checkpoint in checkpoints if "valid_loss" in checkpoint.metrics]
    return min(
        evaluated,
        key=lambda checkpoint: (checkpoint.metrics["valid_loss"], checkpoint.step),
        default=None,
    )
