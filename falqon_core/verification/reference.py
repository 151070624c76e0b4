"""Reference outputs, from a trainer to the process that certifies its model: one safetensors file,
tensors by name and the rest as JSON in its header.

Hashes stand for the weights, so neither side holds a second copy of them. Everything else can be
computed from the exported files alone.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.certificate import HeldOut
from falqon_core.data.resource_limits import run_bounded

CANARY_TEXT = "Hello! What can you do for me?"
CANARY_TOKENS = 16
_SUMMARY = "reference_outputs"


class ReferenceSummary(BaseModel):
    """`sha256`: of the bytes of each tensor, by the name that the exported files give it. `loss`:
    mean over all tokens, in nats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sha256: dict[str, str]
    held_out: HeldOut
    loss: float
    rounds_activations: bool


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """`logits` [P, V] at `positions` int64 [P] of the row `input_ids` int64 [T]."""

    input_ids: Tensor
    positions: Tensor
    logits: Tensor


_ROW_TENSORS = [field.name for field in fields(ReferenceRow)]


@dataclass(frozen=True)
class ReferenceOutputs:
    """`prompt` and `answer` int64 [n]: the tokens of the canary prompt, and the trained model's
    most probable continuation.
    """

    summary: ReferenceSummary
    rows: list[ReferenceRow]
    prompt: Tensor
    answer: Tensor


def save_reference(reference: ReferenceOutputs, path: Path) -> None:
    """Write the outputs to one safetensors file, the summary in its header."""
    tensors = {
        f"{index}.{name}": getattr(row, name)
        for index, row in enumerate(reference.rows)
        for name in _ROW_TENSORS
    }
    tensors |= {"prompt": reference.prompt, "answer": reference.answer}
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()},
        path,
        {_SUMMARY: reference.summary.model_dump_json()},
    )


def load_reference(path: Path) -> ReferenceOutputs:
    """Read the outputs of one safetensors file."""
    with safe_open(path, "pt") as file:
        summary = ReferenceSummary.model_validate_json(file.metadata()[_SUMMARY])
        rows = [
            ReferenceRow(*(file.get_tensor(f"{index}.{name}") for name in _ROW_TENSORS))
            for index in range(summary.held_out.num_rows)
        ]
        return ReferenceOutputs(summary, rows, file.get_tensor("prompt"), file.get_tensor("answer"))


def tensor_sha256(tensor: Tensor) -> str:
    """Return the hash of the tensor's bytes as they stand in a file."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest()


def canary_prompt(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return int64 [n]: `CANARY_TEXT` as the user's turn of a chat, or as plain text where there is
    no template, or one that refuses it.
    """
    text = CANARY_TEXT
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": CANARY_TEXT}]
        # A template may raise any error: data without chats have not tried it.
        with suppress(Exception):
            text = run_bounded(
                lambda: tokenizer.apply_chat_template(
                    turns, add_generation_prompt=True, tokenize=False
                )
            )
    return torch.tensor(tokenizer(text, add_special_tokens=text is CANARY_TEXT)["input_ids"])
