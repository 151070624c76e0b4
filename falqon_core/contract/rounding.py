"""`rounding.json`: how far a form of a model is from the FP8 model, beside its file."""

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.certificate import HeldOut

ROUNDING = "rounding.json"


class Rounding(BaseModel):
    """Losses are means over the learned tokens, in nats, weights in the form named and activations
    in bf16. An adapter is measured on its base in bf16: what it lacks is the rounding to FP8.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    loss: float = Field(description="of this form")
    loss_fp8: float = Field(description="of the FP8 model that it was made from")
    same_tokens: float = Field(
        description="share of the learned tokens at which both find the same token most probable"
    )
    held_out: HeldOut
