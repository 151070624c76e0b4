"""AdamW over the method's parameters, a learning-rate schedule that is a pure function of the step, and clipping.

The state is two moments per parameter and the step count. Fused AdamW touches each element once and gives the same bits for the
same number of threads. What is given up: parameter groups; every trained parameter has one rate and one decay.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from falqon_core.spec.config import Recipe

BETAS = (0.9, 0.999)
EPS = 1e-8


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """The rate of step `step` (from 1): linear warm-up over `warmup_ratio` of the steps, then the schedule down to zero."""
    assert recipe.learning_rate is not None, "resolve the recipe first"
    warmup = round(recipe.warmup_ratio * total_steps)
    if step <= warmup:
        return recipe.learning_rate * step / warmup
    done = (step - warmup - 1) / max(1, total_steps - warmup)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return recipe.learning_rate * shape[recipe.lr_schedule]


class Optimizer:
    def __init__(self, parameters: Mapping[str, nn.Parameter], recipe: Recipe, total_steps: int) -> None:
        self.parameters = dict(parameters)
        self.recipe, self.total_steps = recipe, total_steps
        self.adamw = torch.optim.AdamW(self.parameters.values(), lr=0.0, betas=BETAS, eps=EPS, weight_decay=recipe.weight_decay, fused=True)

    def clip(self) -> Tensor:
        """Scale the gradients down to `max_grad_norm`; -> their norm before, fp32 []."""
        return nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)

    def step(self, step: int) -> float:
        """Apply the gradients of step `step` (from 1) and drop them; -> the learning rate used."""
        rate = learning_rate(self.recipe, step, self.total_steps)
        self.adamw.param_groups[0]["lr"] = rate
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return rate

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts, by parameter name."""
        return {f"{name}.{key}": value for name, p in self.parameters.items() for key, value in self.adamw.state[p].items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            prefix = name + "."
            self.adamw.state[parameter] = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
