"""Names of a mixture's tensors as its publishers store them: an expert's weights apart, where
transformers holds those of all experts of a layer together.

The names are transformers' own, by which it reads and writes such files.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion


def published(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of `model`, by its own names, as they stand in published files."""
    reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return reverted
