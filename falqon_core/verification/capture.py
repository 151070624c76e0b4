"""Reference outputs of the trained model, by the trainer's own modules; the reloaded one must give
the same.

Captured are the loss and a few logits of held-out rows, a greedy answer to the canary prompt, and a
hash of every tensor that has to arrive. Rows are cut to `ROW_TOKENS` tokens, and of a pair only the
chosen answer is read.
"""

from collections.abc import Iterator

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.certificate import HeldOut
from falqon_core.data.dataset import Dataset
from falqon_core.data.loader import row_multiple
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import Item, TokenSequence, sequences_of
from falqon_core.export.trained import exported_tensors
from falqon_core.generate import generate
from falqon_core.meld.activations import rounds_activations
from falqon_core.objectives.loss import states_and_labels
from falqon_core.ops.cross_entropy import token_cross_entropy
from falqon_core.verification.reference import (
    CANARY_TOKENS,
    ReferenceOutputs,
    ReferenceRow,
    ReferenceSummary,
    canary_prompt,
    tensor_sha256,
)

NUM_ROWS = 4
ROW_TOKENS = 256
NUM_POSITIONS = 8  # Positions of a row whose logits are kept.


@torch.no_grad()
def capture_reference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    validation: Dataset | None,
    training: Dataset,
) -> ReferenceOutputs:
    """Return the outputs of `model`, as it is exported, on rows of the validation data; without
    any, on rows of the training data, and the summary says so.
    """
    held_out = training if validation is None else validation
    sequences = [_first_tokens(item) for item in held_out.sequences[:NUM_ROWS]]
    losses, rows = zip(*(_read_row(model, sequence) for sequence in sequences), strict=True)
    prompt = canary_prompt(tokenizer)
    answer = generate(model, prompt.numpy(), CANARY_TOKENS, tokenizer.eos_token_id)
    num_tokens = sum(len(sequence) for sequence in sequences)
    summary = ReferenceSummary(
        sha256=dict(_tensor_hashes(model)),
        held_out=HeldOut(
            source="training" if validation is None else "validation",
            num_rows=len(sequences),
            num_tokens=num_tokens,
        ),
        loss=sum(losses) / (num_tokens - len(sequences)),
        rounds_activations=rounds_activations(model),
    )
    return ReferenceOutputs(summary, list(rows), prompt, torch.from_numpy(answer))


def _first_tokens(item: Item) -> TokenSequence:
    """Cut the sequence. All tokens count, not only the learned ones, to see more of the model."""
    sequence = sequences_of(item)[0]
    input_ids = sequence.input_ids[:ROW_TOKENS]
    return TokenSequence(input_ids, np.ones(len(input_ids), dtype=bool))


def _read_row(model: PreTrainedModel, sequence: TokenSequence) -> tuple[float, ReferenceRow]:
    """Return the summed cross entropy and the row."""
    microbatch = collate([sequence], True, row_multiple(model.device))
    hidden, head, labels = states_and_labels(model, microbatch)
    losses, _ = token_cross_entropy(hidden, head, labels)
    parts = torch.arange(len(labels)).tensor_split(NUM_POSITIONS)
    positions = torch.stack([part[-1] for part in parts if len(part)])
    logits = head.logits(hidden[positions.to(hidden.device)])
    input_ids = torch.from_numpy(sequence.input_ids.astype(np.int64))
    return losses.double().sum().item(), ReferenceRow(input_ids, positions, logits)


def _tensor_hashes(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Hash the tensors that an export writes: codes and scales, and bf16 values elsewhere."""
    for name, value in exported_tensors(model):
        yield name, tensor_sha256(value)
