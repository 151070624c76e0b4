"""The loop: load, then {step, log, evaluate, checkpoint} until the last step, then export.

A step is `batch_size` records in one or more microbatches; its loss is the mean over all their labels, so accumulation changes
nothing but memory. Loss and gradient norm are checked before the update. When asked to stop it writes a checkpoint after the
step in hand; the same call later continues from it and ends with the same bytes (CPU, same number of threads).
What is given up: one process, one device.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from falqon_core.data.dataset import Dataset, load_dataset
from falqon_core.data.loader import Loader, Microbatch, microbatches
from falqon_core.export.checksums import write_sha256sums
from falqon_core.export.fp8 import export_fp8
from falqon_core.export.model_card import TrainingRow, license_of, write_model_card
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.loss import microbatch_loss
from falqon_core.spec.config import TrainConfig
from falqon_core.spec.errors import ConfigError, LossNotFinite
from falqon_core.spec.messages import CheckpointSaved, Evaluated, ExitCode, Exported, Finished, Log, Message, Started, StepMetrics
from falqon_core.train import checkpoint
from falqon_core.train.checkpoint import TrainState
from falqon_core.train.evaluate import Score, evaluate
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.optimizer import Optimizer

GRADIENT_STEPS = 4  # steps whose data the method may look at to choose A
HISTORY_ROWS = 20  # about this many rows of the training table, evaluations besides


class StepResult(NamedTuple):
    """Of one optimizer step: means over its labels, the gradient's norm before clipping, the rate used, its real tokens."""

    score: Score
    grad_norm: float
    learning_rate: float
    num_tokens: int


class Trainer:
    """One training, in `output`: checkpoints/ while it lasts, model/ at the end. Continues from checkpoints/ when there are any."""

    def __init__(self, config: TrainConfig, output: Path, send: Callable[[Message], None]) -> None:
        """Loads everything. Raises the `UserError`s of configuration, data and model."""
        self.config, self.output, self.send = config, output, send
        self.tokenizer = load_tokenizer(config.model)
        self.model = load_base_model(config.model)
        self.max_seq_length = min(config.recipe.max_seq_length, self.model.config.max_position_embeddings)
        self.train_set, self.valid_set = self._datasets()
        recipe = self.recipe = config.recipe.resolved(len(self.train_set.sequences))
        assert recipe.batch_size is not None
        assert recipe.microbatch_tokens is not None
        self.valid = microbatches(self.valid_set.sequences, recipe.microbatch_tokens, recipe.packing) if self.valid_set else []
        self.loader = self._loader()
        self.total_steps = recipe.num_steps(len(self.train_set.sequences))
        self.method = Falqon(recipe)
        self.state = TrainState(recipe=recipe, num_tokens=self.train_set.num_tokens)
        saved = checkpoint.load_newest(output / "checkpoints", lambda text: send(Log(level="warn", text=text)))
        if saved is None:
            self.method.prepare(self.model, self._first_microbatches())
        else:
            self._check_belongs(saved.state)
            self.method.restore(self.model, saved.method)
            self.loader.load_state_dict(saved.state.loader)
            self.state = saved.state
        self.optimizer = Optimizer(self.method.parameters(), recipe, self.total_steps)
        if saved is not None:
            self.optimizer.load(saved.optimizer)

    def run(self, should_stop: Callable[[], bool]) -> ExitCode:
        """Train to the end and export, or to a checkpoint as soon as `should_stop()`."""
        self.send(self._started())
        began = time.monotonic()
        while self.state.step < self.total_steps:
            step_began = time.monotonic()
            result = self._step()
            now = time.monotonic()
            self.send(self._metrics(result, now - step_began, now - began))
            valid = self._evaluate() if self._due(self.recipe.eval_every or self.loader.steps_per_epoch) else None
            self._remember(result, valid)
            stop = should_stop() and self.state.step < self.total_steps
            if stop or self._due(self.recipe.checkpoint_every):
                self._save(result.score, valid)
            if stop:
                return ExitCode.STOPPED
        self.export()
        elapsed = time.monotonic() - began
        self.send(Finished(steps=self.state.step, trained_tokens=self.state.trained_tokens, elapsed_seconds=elapsed))
        return ExitCode.DONE

    def export(self) -> None:
        """Write `output`/model: the merged FP8 checkpoint, its card and its checksums."""
        folder = self.output / "model"
        export_fp8(self.model, self.tokenizer, folder)
        write_model_card(
            folder,
            base_model=self.config.base_model_name or self.config.model.name,
            license=license_of(self.config.model),
            recipe=self.recipe,
            rows=self.state.history,
            num_records=len(self.train_set.sequences),
            num_tokens=self.state.trained_tokens,
            device="CPU",
        )
        write_sha256sums(folder)
        self.send(Exported(path=str(folder)))

    def _step(self) -> StepResult:
        """One optimizer step: data, forward and backward, checks, update."""
        batch = self.loader.next_step()
        num_labels = sum(one.num_labels for one in batch)
        loss, num_correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for one in batch:
            if one.num_labels:
                summed, correct = microbatch_loss(self.model, one)
                (summed / num_labels).backward()
                loss += summed.detach() / num_labels
                num_correct += correct
        grad_norm = self.optimizer.clip()
        step = self.state.step + 1
        if not (torch.isfinite(loss) and torch.isfinite(grad_norm)):
            numbers = f"loss {loss.item()}, gradient norm {grad_norm.item()}"
            raise LossNotFinite(f"step {step}: {numbers}; try a lower learning_rate", "learning_rate")
        rate = self.optimizer.step(step)
        self.method.after_step()
        num_tokens = sum(one.num_tokens for one in batch)
        trained = self.state.trained_tokens + num_tokens
        self.state = self.state.model_copy(update={"step": step, "trained_tokens": trained, "loader": self.loader.state_dict()})
        return StepResult(Score(loss.item(), num_correct.item() / num_labels), grad_norm.item(), rate, num_tokens)

    def _metrics(self, result: StepResult, step_seconds: float, elapsed_seconds: float) -> StepMetrics:
        return StepMetrics(
            step=self.state.step,
            total_steps=self.total_steps,
            epoch=self.loader.epoch,
            train_loss=result.score.loss,
            train_mean_token_accuracy=result.score.accuracy,
            learning_rate=result.learning_rate,
            grad_norm=result.grad_norm,
            tokens=result.num_tokens,
            trained_tokens=self.state.trained_tokens,
            tokens_per_second=result.num_tokens / step_seconds,
            elapsed_seconds=elapsed_seconds,
        )

    def _evaluate(self) -> Score | None:
        if not self.valid:
            return None
        score = evaluate(self.model, self.valid)
        if not math.isfinite(score.loss):
            raise LossNotFinite(f"step {self.state.step}: validation loss {score.loss}; try a lower learning_rate", "learning_rate")
        self.send(Evaluated(step=self.state.step, valid_loss=score.loss, valid_mean_token_accuracy=score.accuracy))
        return score

    def _remember(self, result: StepResult, valid: Score | None) -> None:
        step = self.state.step
        if valid or step == self.total_steps or step % max(1, self.total_steps // HISTORY_ROWS) == 0:
            row = TrainingRow(step, result.score.loss, valid.loss if valid else None, result.learning_rate)
            self.state = self.state.model_copy(update={"history": [*self.state.history, row]})

    def _save(self, train: Score, valid: Score | None) -> None:
        folder, state = self.output / "checkpoints", self.state
        saved = checkpoint.save(folder, state, self.method.state(), self.optimizer.state(), self.recipe.keep_checkpoints)
        metrics = {"train_loss": train.loss, "train_mean_token_accuracy": train.accuracy}
        if valid:
            metrics |= {"valid_loss": valid.loss, "valid_mean_token_accuracy": valid.accuracy}
        self.send(CheckpointSaved(step=state.step, **saved._asdict() | {"path": str(saved.path)}, metrics=metrics))

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.total_steps

    def _started(self) -> Started:
        return Started(
            total_steps=self.total_steps,
            start_step=self.state.step,
            num_records=len(self.train_set.sequences),
            num_truncated_records=self.train_set.num_truncated,
            tokens_per_epoch=self.train_set.num_tokens,
            device="cpu",
            num_trainable_parameters=sum(p.numel() for p in self.method.parameters().values()),
        )

    def _datasets(self) -> tuple[Dataset, Dataset | None]:
        recipe = self.config.recipe
        whole = load_dataset(self.config.train_file, self.tokenizer, self.max_seq_length)
        if whole.num_without_targets:
            text = f"{whole.num_without_targets} records have nothing to learn within {self.max_seq_length} tokens and are left out"
            self.send(Log(level="warn", text=text))
        if self.config.validation_file is not None:
            return whole, load_dataset(self.config.validation_file, self.tokenizer, self.max_seq_length, "validation_file")
        return whole.split(recipe.validation_fraction, recipe.seed) if recipe.validation_fraction else (whole, None)

    def _loader(self) -> Loader:
        recipe = self.recipe
        assert recipe.batch_size is not None
        assert recipe.microbatch_tokens is not None
        return Loader(self.train_set.sequences, recipe.batch_size, recipe.microbatch_tokens, recipe.packing, recipe.seed)

    def _first_microbatches(self) -> list[Microbatch]:
        loader = self._loader()
        steps = min(GRADIENT_STEPS, self.total_steps)
        return [one for _ in range(steps) for one in loader.next_step()]

    def _check_belongs(self, saved: TrainState) -> None:
        if (saved.recipe, saved.num_tokens) != (self.recipe, self.train_set.num_tokens):
            raise ConfigError("the output folder holds checkpoints of another recipe or other data; name another folder", "output")
