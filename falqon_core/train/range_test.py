"""The steps of a learning-rate range test: one batch each, with a rate that rises, until the last
one or until the loss diverges. Nothing of the model is kept.
"""

from collections.abc import Callable, Sequence

from falqon_core.contract.errors import LossNotFinite
from falqon_core.contract.messages import StepMetrics
from falqon_core.contract.range_test import (
    NUM_STEPS,
    RangePoint,
    RangeTest,
    has_diverged,
    propose_rate,
)
from falqon_core.data.dataset import Dataset
from falqon_core.data.loader import row_multiple
from falqon_core.data.microbatch import plan_microbatches
from falqon_core.objectives import Objective
from falqon_core.train.data import training_loader
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.evaluate import evaluate_untouched
from falqon_core.train.progress_counter import ProgressCounter
from falqon_core.train.signals import StoppedBeforeFirstStep
from falqon_core.train.state import TrainState


def compute_untouched_losses(
    state: TrainState,
    data: Dataset,
    objective: Objective,
    group: ProcessGroup,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> list[float]:
    """Return the loss of the model before any step on the batch of each step. It is measured,
    unless the objective knows it.

    Progress goes to `report` twice a minute. Raises `StoppedBeforeFirstStep` where `stop` returns
    True on any rank.
    """
    if objective.untouched_loss is not None:
        return [objective.untouched_loss] * NUM_STEPS
    recipe, device = state.progress.recipe, state.model.device
    assert recipe.microbatch_tokens is not None, "fit the recipe to memory first"
    loader = training_loader(data, recipe, device)
    counter = ProgressCounter("range test", NUM_STEPS, "batches", report)
    losses = []
    for _ in range(NUM_STEPS):
        if group.any_rank(stop()):
            raise StoppedBeforeFirstStep
        plan = plan_microbatches(
            loader.next_records(), recipe.microbatch_tokens, recipe.packing, row_multiple(device)
        )
        losses.append(evaluate_untouched(state.model, plan, objective, group))
        counter.add(1)
    return losses


def run_range_test(
    untouched_losses: Sequence[float],
    step: Callable[[], StepMetrics],
    stop: Callable[[], bool],
    send: Callable[[StepMetrics], None],
) -> RangeTest | None:
    """Run `step` once a batch; return None where `stop` returned True."""
    rates: list[float] = []
    changes: list[float] = []  # The loss of a step is that before its own update.
    diverged = False
    for untouched_loss in untouched_losses:
        if stop():
            return None
        try:
            metrics = step()
        except LossNotFinite:
            diverged = True
            break
        send(metrics)
        rates.append(metrics.learning_rate)
        changes.append(metrics.train_loss - untouched_loss)
        diverged = has_diverged(changes[1:], untouched_losses[0])
        if diverged:
            break
    points = [
        RangePoint(learning_rate=rate, loss_change=change)
        for rate, change in zip(rates, changes[1:], strict=False)
    ]
    return propose_rate(points, untouched_losses[0], diverged=diverged)
