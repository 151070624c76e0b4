"""Automatic learning rates: those that were measured at one width, carried to that of a model.

A wider model wants a lower rate. "LoRA Without Regret" (Thinking Machines, 2025) fitted the best
rate of LoRA for Llamas to a power of the hidden size, with the exponent -0.781. From this project's
2e-3 at 576 it gives 7.4e-4 at 2,048 (1B), 4.3e-4 at 4,096 (8B) and 2.5e-4 at 8,192 (70B), where the
authors' later sweep (tinker-cookbook, `get_lr`) found 1e-3, 3e-4 and 3e-4. For Qwen3 of 4,096 that
sweep found 1e-3: families differ by a factor of three. The same power is taken for all methods.
Models narrower than the one of the measurements keep its rate.
"""

from pydantic import BaseModel, ConfigDict

MEASURED_WIDTH = 576  # Hidden size of SmolLM2-135M.
WIDTH_EXPONENT = 0.781


class AutomaticRate(BaseModel):
    """An automatic learning rate, and its reason in a few words."""

    model_config = ConfigDict(frozen=True)

    value: float
    reason: str


def rate_for_width(measured: float, width: int) -> AutomaticRate:
    """Return the rate for a hidden size of `width`, of two digits, from the one measured at
    `MEASURED_WIDTH`.
    """
    if width <= MEASURED_WIDTH:
        return AutomaticRate(
            value=measured, reason=f"automatic, as measured at a width of {MEASURED_WIDTH}"
        )
    value = measured * (MEASURED_WIDTH / width) ** WIDTH_EXPONENT
    return AutomaticRate(
        value=float(f"{value:.2g}"),
        reason=f"automatic, {measured:g} at a width of {MEASURED_WIDTH}, "
        f"times ({MEASURED_WIDTH} / {width})^{WIDTH_EXPONENT} as published for LoRA, not measured "
        "here",
    )
