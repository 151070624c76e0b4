"""The shared part of methods whose base model stays as it is while something beside it trains."""

from torch import Tensor

from falqon_core.methods.relative_rate import RelativeRate


class FrozenBaseMethod:
    """Part of `methods.Trainable`: one learning rate, and nothing to do after a step."""

    def relative_rates(self) -> dict[str, RelativeRate]:
        """Return no factors: A and B train at the same rate."""
        return {}

    def maxima(self) -> Tensor | None:
        """Return None: no tensor is shared by the ranks."""
        return None

    def after_step(self) -> float:
        """Return 0: adapters are read as they are, and codes of a frozen base never change."""
        return 0.0
