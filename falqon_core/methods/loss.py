"""The loss every method minimises: next-token cross entropy of one microbatch, logits only where there is a label.

What is given up: architectures that do something to the logits after the head (soft caps, scales) are not supported; `load_base_model`
refuses them.
"""

from torch import Tensor
from transformers import PreTrainedModel

from falqon_core.data.loader import Microbatch
from falqon_core.ops.cross_entropy import cross_entropy


def microbatch_loss(model: PreTrainedModel, microbatch: Microbatch) -> tuple[Tensor, Tensor]:
    """-> (summed loss fp32 [], number of correct predictions int64 []); the model uses the attention of `ops.attention`.

    Padding is on the right, so causal attention needs no mask; packed microbatches bring `cu_seqlens`.
    """
    output = model.base_model(
        input_ids=microbatch.input_ids,
        position_ids=microbatch.position_ids,
        use_cache=False,
        cu_seqlens=microbatch.cu_seqlens,
    )
    hidden = output.last_hidden_state.flatten(0, 1)
    labels = microbatch.labels.flatten()
    positions = (labels != -100).nonzero().squeeze(1)
    return cross_entropy(hidden[positions], model.get_output_embeddings().weight, labels[positions])
