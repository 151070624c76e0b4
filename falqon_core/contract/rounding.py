"""`rounding.json`: what a smaller form of a model costs in loss, beside its file."""

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.certificate import HeldOut

ROUNDING = "rounding.json"


class Rounding(BaseModel):
    """Losses are means over the learned tokens, in nats, weights in the form named and activations
    in bf16.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss: float = Field(description="of this form")
    loss_fp8: float = Field(description="of the FP8 model that it was made from")
    held_out: HeldOut
