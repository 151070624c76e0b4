"""Evaluations within a training: their steps and their messages."""

from collections.abc import Callable

import torch
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import Evaluated, Sampled, TrainerMessage
from falqon_core.data.dataset import Dataset
from falqon_core.objectives import Objective
from falqon_core.train.data import plan_validation
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.early_stopping import record_evaluation
from falqon_core.train.evaluate import evaluate, evaluate_untouched
from falqon_core.train.samples import complete
from falqon_core.train.state import TrainState


class Evaluator:
    """The evaluations of one training; without validation data no step is due."""

    def __init__(
        self,
        validation: Dataset | None,
        every: int,
        total_steps: int,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        objective: Objective,
        device: torch.device,
        send: Callable[[TrainerMessage], None],
        group: ProcessGroup,
    ) -> None:
        """`every`: steps from one evaluation to the next."""
        self._validation = validation
        self._every = every
        self._total_steps = total_steps
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._objective = objective
        self._device = device
        self._send = send
        self._group = group

    def is_due(self, step: int) -> bool:
        """Return True where an evaluation follows this step."""
        is_due = step % self._every == 0 or step == self._total_steps
        return self._validation is not None and is_due

    def evaluate_untouched(
        self, state: TrainState, report: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """Keep the validation loss before the first step. It is measured there, unless the
        objective knows it; a checkpoint of an earlier version may have none. Raises
        `StoppedBeforeFirstStep` where `stop` returns True.
        """
        if self._validation is None:
            return
        progress = state.progress
        if progress.untouched_valid_loss is None:
            progress.untouched_valid_loss = self._objective.untouched_loss
        if progress.untouched_valid_loss is None and progress.step == 0:
            plan = plan_validation(self._validation, self._recipe, self._device)
            progress.untouched_valid_loss = evaluate_untouched(
                state.model, plan, self._objective, self._group, report, stop
            )

    def evaluate(self, state: TrainState) -> bool:
        """Send validation metrics and samples. Return whether the loss is the lowest so far."""
        assert self._validation is not None
        plan = plan_validation(self._validation, self._recipe, self._device)
        means = evaluate(state.model, plan, self._objective, self._group)
        metrics = {f"valid_{name}": value for name, value in means.items()}
        state.progress.metrics |= metrics
        self._send(Evaluated(step=state.progress.step, **metrics))
        if self._recipe.num_samples and self._answers_samples(state):
            with self._group.rank0_alone() as is_alone:
                if is_alone:
                    self._send_samples(state, self._validation)
        return record_evaluation(state.progress, means["loss"])

    def _answers_samples(self, state: TrainState) -> bool:
        """Return True for the first evaluation after an epoch, the last one, and where the user
        chose the steps. Answers may take as long as a part of an epoch.
        """
        step, steps_of_epoch = state.progress.step, state.loader.steps_per_epoch
        return (
            self._recipe.eval_every is not None
            or step == self._total_steps
            or step // steps_of_epoch > (step - self._every) // steps_of_epoch
        )

    def _send_samples(self, state: TrainState, validation: Dataset) -> None:
        samples = complete(
            state.model,
            self._tokenizer,
            validation.sequences,
            self._recipe.num_samples,
            self._recipe.sample_tokens,
        )
        self._send(Sampled(step=state.progress.step, samples=samples))
