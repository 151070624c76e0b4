"""AdamW over named parameters, the learning-rate schedule as a pure function of the step, and
clipping.

The fused CPU AdamW is elementwise, so it gives the same bits on every run. The learning rate of
step s depends on s alone: resuming needs no scheduler state.

Moments in FP8 (Fishman et al., arXiv 2409.12517) are e4m3 and e5m2, each tensor with one scale from
its largest magnitude, rounded to nearest after the step. They are held in fp32 all the same, so it
shows the learning of such a training and saves no memory. The second moment then decays by 0.95, as
there, and not by 0.999: a change by a thousandth is lost to e5m2's two mantissa bits, so that the
moment would stand still while its bias correction goes on.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import Moments
from falqon_core.contract.range_test import rate_of_step
from falqon_core.methods.relative_rate import RelativeRate
from falqon_core.ops.formats.float8 import E4M3, E5M2, quantize_tensor

BETAS: dict[Moments, tuple[float, float]] = {"fp32": (0.9, 0.999), "fp8": (0.9, 0.95)}
_STATE = ("step", "exp_avg", "exp_avg_sq")


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """Return the rate of optimizer step `step`, counted from 0: linear warm-up to the peak, then
    constant, or down to 0 after the last step; that of a range test rises.
    """
    assert recipe.learning_rate is not None, "resolve the recipe first"
    if recipe.find_rate:
        return rate_of_step(recipe.learning_rate, step)
    warmup = math.ceil(recipe.warmup_ratio * num_steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, num_steps - warmup)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[recipe.lr_schedule]
    return recipe.learning_rate * factor


class Optimizer:
    """Fused AdamW over named parameters, with clipping."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        weight_decay: float,
        max_grad_norm: float,
        moments: Moments = "fp32",
        relative_rates: Mapping[str, RelativeRate] = MappingProxyType({}),
    ) -> None:
        """`relative_rates`: factors of the rate by the parameter's name; 1 where there is none."""
        self._num_steps = 0
        self._parameters = dict(parameters)
        self._max_grad_norm = max_grad_norm
        self._moments = moments
        self._adamw = torch.optim.AdamW(
            _groups(self._parameters, relative_rates),
            lr=0.0,
            betas=BETAS[moments],
            weight_decay=weight_decay,
            fused=True,
        )

    def clip(self) -> float:
        """Scale all gradients so that their common norm is at most `max_grad_norm`. Return the norm
        before.
        """
        return float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._max_grad_norm))

    def step(self, learning_rate: float) -> None:
        """Update the parameters and drop their gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = group["relative_rate"](self._num_steps) * learning_rate
        self._adamw.step()
        self._num_steps += 1
        if self._moments == "fp8":
            for state in self._adamw.state.values():
                round_(state["exp_avg"], E4M3)
                round_(state["exp_avg_sq"], E5M2)
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop all gradients, so that the next step allocates its own."""
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return moments and step counts by parameter name, fp32 of the parameter's shape and [];
        empty before the first step.
        """
        state = self._adamw.state
        return {
            f"{name}.{key}": state[parameter][key]
            for name, parameter in self._parameters.items()
            for key in state.get(parameter, ())
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up moments and step counts by parameter name, on each parameter's device."""
        for name, parameter in self._parameters.items():
            if f"{name}.step" in state:
                self._adamw.state[parameter] = {
                    key: state[f"{name}.{key}"].to(parameter.device) for key in _STATE
                }
                # A parameter that had no gradient in some steps has fewer.
                self._num_steps = max(self._num_steps, int(state[f"{name}.step"]))


def _groups(
    parameters: Mapping[str, nn.Parameter], relative_rates: Mapping[str, RelativeRate]
) -> list[dict[str, Any]]:
    """Return AdamW's groups, one for each relative rate."""
    groups: dict[RelativeRate, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(relative_rates.get(name, _full_rate), []).append(parameter)
    return [{"params": params, "relative_rate": rate} for rate, params in groups.items()]


def _full_rate(_step: int) -> float:
    return 1.0


def round_(values: Tensor, dtype: torch.dtype) -> None:
    """Round in place to the FP8 format `dtype`, with one scale."""
    qdata, scale = quantize_tensor(values, dtype)
    values.copy_(qdata).mul_(scale)
