"""What a trainer hands to the process that certifies its model: one safetensors file, tensors by name and the rest as JSON in its header.

Hashes stand for the weights, so neither side holds a second copy of them. Everything else can be computed from the exported files alone.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.certificate import HeldOut
from falqon_core.data.resource_limits import OutOfBounds, bounded

CANARY = "Hello! What can you do for me?"
CANARY_TOKENS = 16
_RECORD = "reference_outputs"


class Record(BaseModel):
    """`sha256`: of the bytes of each tensor, by the name that the exported files give it. `loss`: mean over all tokens, in nats."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sha256: dict[str, str]
    held_out: HeldOut
    loss: float
    rounds_activations: bool


class Row(NamedTuple):
    """`logits` [P, V] at `positions` int64 [P] of the row `input_ids` int64 [T]."""

    input_ids: Tensor
    positions: Tensor
    logits: Tensor


class ReferenceOutputs(NamedTuple):
    """`prompt` and `answer` int64: the tokens of the canary prompt, and those that the trainer's model most probably continues it with."""

    record: Record
    rows: list[Row]
    prompt: Tensor
    answer: Tensor


def save_reference(reference_outputs: ReferenceOutputs, path: Path) -> None:
    tensors = {f"{index}.{name}": value for index, row in enumerate(reference_outputs.rows) for name, value in row._asdict().items()}
    tensors |= {"prompt": reference_outputs.prompt, "answer": reference_outputs.answer}
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()}, path, {_RECORD: reference_outputs.record.model_dump_json()}
    )


def load_reference(path: Path) -> ReferenceOutputs:
    with safe_open(path, "pt") as file:
        record = Record.model_validate_json(file.metadata()[_RECORD])
        rows = [Row(*(file.get_tensor(f"{index}.{name}") for name in Row._fields)) for index in range(record.held_out.num_rows)]
        return ReferenceOutputs(record, rows, file.get_tensor("prompt"), file.get_tensor("answer"))


def sha256_of(tensor: Tensor) -> str:
    """Of its bytes as they stand in a file."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()


def canary_prompt(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """int64 [n]: `CANARY` as the user's turn of a chat, or as plain text where there is no template, or one that refuses it."""
    text = CANARY
    if tokenizer.chat_template is not None:
        turns = [{"role": "user", "content": CANARY}]
        with suppress(TemplateError, OutOfBounds):
            text = bounded(lambda: tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    return torch.tensor(tokenizer(text, add_special_tokens=text is CANARY)["input_ids"])
