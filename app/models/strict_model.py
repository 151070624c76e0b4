from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Part of a request: no unknown fields, no values of another type, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
