"""Scores of a model on the labels of one microbatch: summed cross entropy, or a log-probability per
sequence; logits only at labels.

The model's changes to its logits after the head are read from its config, under the names that
transformers' decoders use; `train.agreement` refuses a model that does anything else.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.ops.cross_entropy import Head, cross_entropy, token_cross_entropy


def microbatch_loss(model: PreTrainedModel, microbatch: Microbatch) -> tuple[Tensor, Tensor]:
    """Return (summed loss fp32 [], number of correct predictions int64 []); the model uses the
    attention of `ops.attention`.
    """
    return cross_entropy(*states_and_labels(model, microbatch))


def sequence_log_probabilities(model: PreTrainedModel, microbatch: Microbatch) -> Tensor:
    """Return the summed log-probabilities of each sequence's targets, fp32 [S], in nats.

    Summed piece by piece, not scattered: the order of additions is the same on every device.
    """
    losses, _ = token_cross_entropy(*states_and_labels(model, microbatch))
    return torch.stack([-sequence.sum() for sequence in losses.split(microbatch.label_counts)])


def output_head(model: PreTrainedModel) -> Head:
    """Return the head that makes logits of hidden states: Granite divides them, Cohere multiplies
    them, Gemma caps them.
    """
    scale = getattr(model.config, "logit_scale", None) or 1.0
    divisor = getattr(model.config, "logits_scaling", None) or 1.0
    cap = getattr(model.config, "final_logit_softcapping", None)
    return Head(model.get_output_embeddings().weight, scale / divisor, cap)


def states_and_labels(
    model: PreTrainedModel, microbatch: Microbatch
) -> tuple[Tensor, Head, Tensor]:
    """Return (hidden states that have a label [N, H], the head, labels int64 [N]).

    The one place where a microbatch, made on the CPU, moves to the model's device. Padding is on
    the right, so causal attention needs no mask; packed microbatches bring `cu_seqlens`.
    """
    max_seqlen = microbatch.max_seqlen
    microbatch = microbatch.to(model.device)
    output = model.base_model(
        input_ids=microbatch.input_ids,
        position_ids=microbatch.position_ids,
        use_cache=False,
        cu_seqlens=microbatch.cu_seqlens,
        max_seqlen=max_seqlen,
    )
    # [B, T, H] -> [B * T, H]; only positions with a label reach the head.
    hidden = output.last_hidden_state.flatten(0, 1)
    positions = microbatch.label_positions
    return hidden[positions], output_head(model), microbatch.labels.flatten()[positions]
