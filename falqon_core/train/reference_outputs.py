"""What the trainer says of its model before it lets go of it, computed by its own modules, for `export.certificate` to hold against.

The loss and a few logits of held-out rows, a greedy answer to the canary prompt, and a hash of every tensor that has to arrive.
What is given up: rows are cut to `ROW_TOKENS` tokens, and of a pair only the chosen answer is read.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.certificate import HeldOut
from falqon_core.data.dataset import Dataset
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import Pair, Sequence
from falqon_core.export.fp8 import QuantizedLinear
from falqon_core.export.reference import CANARY_TOKENS, Record, ReferenceOutputs, Row, canary_prompt, sha256_of
from falqon_core.meld.linear import MeldedLinear
from falqon_core.methods.loss import states_and_labels
from falqon_core.ops.cross_entropy import token_cross_entropy
from falqon_core.train.data import bucket
from falqon_core.train.samples import generate

NUM_ROWS = 4
ROW_TOKENS = 256
NUM_POSITIONS = 8  # of a row, whose logits are kept


@torch.no_grad()
def capture_reference(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, validation: Dataset | None, training: Dataset
) -> ReferenceOutputs:
    """`model` as it is exported; without validation data rows of the training data are read, and the record says so."""
    sequences = [_cut(item) for item in (training if validation is None else validation).sequences[:NUM_ROWS]]
    told = [_row(model, sequence) for sequence in sequences]
    prompt = canary_prompt(tokenizer)
    answer = generate(model, prompt.numpy(), CANARY_TOKENS, tokenizer.eos_token_id)
    num_tokens = sum(len(sequence) for sequence in sequences)
    record = Record(
        sha256=dict(_hashes(model)),
        held_out=HeldOut(source="training" if validation is None else "validation", num_rows=len(sequences), num_tokens=num_tokens),
        loss=sum(summed for summed, _ in told) / (num_tokens - len(sequences)),
        rounds_activations=any(module.rows.rounds_activations for module in model.modules() if isinstance(module, MeldedLinear)),
    )
    return ReferenceOutputs(record, [row for _, row in told], prompt, torch.from_numpy(answer))


def _cut(item: Sequence | Pair) -> Sequence:
    """All tokens count, not only the learned ones: more of the model is looked at."""
    input_ids = (item.chosen if isinstance(item, Pair) else item).input_ids[:ROW_TOKENS]
    return Sequence(input_ids, np.ones(len(input_ids), dtype=bool))


def _row(model: PreTrainedModel, sequence: Sequence) -> tuple[float, Row]:
    """-> (summed cross entropy, the row)."""
    hidden, head, labels = states_and_labels(model, collate([sequence], True, bucket(model.device)))
    losses, _ = token_cross_entropy(hidden, head, labels)
    positions = torch.arange(len(labels)).tensor_split(NUM_POSITIONS)
    chosen = torch.stack([part[-1] for part in positions if len(part)])
    logits = hidden[chosen.to(hidden.device)] @ head.t()
    return losses.double().sum().item(), Row(torch.from_numpy(sequence.input_ids.astype(np.int64)), chosen, logits)


def _hashes(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """Of the melded linears their codes and scales, of everything else its bf16 values."""
    quantized: Items[str] = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    for name in quantized:
        codes, scale = model.get_submodule(name).quantized_weight()
        yield f"{name}.weight", sha256_of(codes)
        yield f"{name}.weight_scale", sha256_of(scale)
    within = tuple(f"{name}." for name in quantized)
    for name, value in model.state_dict().items():
        if not name.startswith(within) or name.endswith(".bias"):
            yield name, sha256_of(_stored(value))


def _stored(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16) if value.is_floating_point() else value
