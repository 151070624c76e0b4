"""A check that training computes the same logits of a model as transformers does.

Training packs sequences, has an attention of its own that knows no masks, and computes logits by
itself (`objectives.loss`). A family that does anything else there, a mask of its own or another
scale of its logits, would train on the wrong function without a sign of it. So before the first
step two short sequences go through both: packed as in training, and each alone through the model's
own forward pass with transformers' "eager" attention. What a window or a rotary scale does to
longer ones is not seen here; the suite has a model of every family for that.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.contract.errors import ModelError
from falqon_core.data.loader import row_multiple
from falqon_core.data.microbatch import collate
from falqon_core.data.sequences import TokenSequence
from falqon_core.objectives.loss import states_and_labels
from falqon_core.ops import attention

PROBE_LENGTHS = (9, 14)
# The root mean square of the difference over that of the logits about their mean: at most 0.011 on
# the suite's families in bf16 on a CPU, and below 0.001 on SmolLM2-135M.
MAX_DIFFERENCE = 0.15


@torch.no_grad()
def check_agreement(model: PreTrainedModel) -> None:
    """Raise `ModelError` unless both give the same logits, up to rounding. Not-a-number agrees with
    everything: the loss will say so.
    """
    sequences = [_sequence(length, model.config.vocab_size) for length in PROBE_LENGTHS]
    actual = _packed_logits(model, sequences)
    model.set_attn_implementation("eager")
    try:
        expected = torch.cat([_own_logits(model, sequence) for sequence in sequences])
    finally:
        model.set_attn_implementation(attention.ATTENTION_NAME)
    difference = (actual - expected).square().mean().sqrt()
    variation = (expected - expected.mean()).square().mean().sqrt()
    if difference > MAX_DIFFERENCE * variation:
        relative = difference / variation
        raise ModelError(
            f"model type {model.config.model_type!r} is not supported: training computes other "
            f"logits of it than transformers does (relative difference {relative:.2f})",
            "model",
        )


def _sequence(length: int, vocab_size: int) -> TokenSequence:
    """Return tokens that differ from one place to the next and from sequence to sequence."""
    input_ids = torch.arange(length).mul(7919).add(length).remainder(vocab_size)
    return TokenSequence(input_ids.int().numpy(), torch.ones(length, dtype=torch.bool).numpy())


def _packed_logits(model: PreTrainedModel, sequences: list[TokenSequence]) -> Tensor:
    hidden, head, _ = states_and_labels(model, collate(sequences, True, row_multiple(model.device)))
    return head.logits(hidden).float()


def _own_logits(model: PreTrainedModel, sequence: TokenSequence) -> Tensor:
    """Return the logits [T - 1, V] of all tokens that have a next one."""
    input_ids = torch.from_numpy(sequence.input_ids).long()[None].to(model.device)
    return model(input_ids=input_ids, use_cache=False).logits[0, :-1].float()
