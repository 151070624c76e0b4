"""Train one model: load -> loop {step, log, evaluate, checkpoint} -> export.

The state of a training is the method's tensors, the optimizer's, and `Progress`; all three are in a checkpoint, nothing random happens
between, so a training that was interrupted and continued writes the same bytes as one that was not (same thread count).
The trainer knows paths and numbers; what happens is told through `send`. Of several processes (train.distributed) each computes a
share of every step, and the first alone writes.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from falqon_core.data.dataset import Dataset, load_dataset
from falqon_core.data.loader import Loader, microbatches
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.loss import microbatch_loss
from falqon_core.spec.config import TrainConfig
from falqon_core.spec.errors import ConfigError, LossNotFinite
from falqon_core.spec.layout import model_folder
from falqon_core.spec.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Exported,
    Finished,
    Log,
    Message,
    Started,
    StepMetrics,
)
from falqon_core.train.checkpoint import Checkpoint, Progress, Row, newest_checkpoint, save_checkpoint
from falqon_core.train.distributed import ALONE, World
from falqon_core.train.evaluate import evaluate
from falqon_core.train.finish import export_model
from falqon_core.train.model import load_base_model, load_tokenizer
from falqon_core.train.optimizer import Optimizer, learning_rate

NUM_PREPARING_STEPS = 4  # batches a method may look at before training, e.g. for the gradient's directions
NUM_ROWS = 20  # training-table rows kept beside those with a validation loss


class Trainer:
    """One training in the folder `output`; continues by itself from the newest checkpoint found there."""

    def __init__(
        self, config: TrainConfig, output: Path, send: Callable[[Message], None], stop: Callable[[], bool], world: World = ALONE
    ) -> None:
        """Loads data, model and checkpoint. Raises the errors of `spec.errors`."""
        self.config, self.output, self.send, self.stop, self.world = config, output, send, stop, world
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        self.tokenizer = load_tokenizer(config.model)
        train, self.validation = self._load_data(self.tokenizer)
        self.recipe = config.recipe.resolved(len(train.sequences))
        self.num_truncated = train.num_truncated
        self.loader = self._new_loader(train)
        self.total_steps = self.recipe.num_steps(len(train.sequences))
        self.progress = Progress(
            recipe=self.recipe,
            num_records=len(train.sequences),
            num_tokens=train.num_tokens,
            num_threads=torch.get_num_threads(),
            num_processes=world.size,
        )
        self.model = load_base_model(config.model)
        self.method = Falqon(self.recipe)
        self._prepare_or_restore(train)

    def run(self) -> ExitCode:
        self._started_at, self._saved_step = time.monotonic(), self.progress.step
        self.send(self._started())
        while self.progress.step < self.total_steps:
            if self.world.any(self.stop()):
                self._checkpoint()
                return ExitCode.STOPPED
            metrics = self._step()
            self.send(metrics)
            if self._evaluation_due():
                self._evaluate()
            self._note(metrics)
            if self.progress.step % self.recipe.checkpoint_every == 0 or self.progress.step == self.total_steps:
                self._checkpoint()
        with self.world.together():
            if self.world.is_first:
                self._export()
        self.send(Finished(steps=self.total_steps, trained_tokens=self.progress.trained_tokens, elapsed_seconds=self._elapsed()))
        return ExitCode.DONE

    def _step(self) -> StepMetrics:
        start = time.monotonic()
        records = self.loader.next_records()
        num_labels = max(1, sum(one.num_labels for one in records))
        loss, num_correct = 0.0, 0.0
        for microbatch in self.loader.microbatches(self.world.share(records)):
            if microbatch.num_labels:
                summed, correct = microbatch_loss(self.model, microbatch)
                (summed / num_labels).backward()
                loss += summed.item() / num_labels
                num_correct += correct.item()
        loss, num_correct = self.world.add_up(loss, num_correct)
        self.world.add_up_gradients(self.method.parameters().values())
        grad_norm = self.optimizer.clip()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise LossNotFinite(
                f"step {self.progress.step + 1}: the loss ({loss}) or the gradient's norm ({grad_norm}) is not finite; a lower "
                "learning rate may help",
                "learning_rate",
            )
        rate = learning_rate(self.recipe, self.progress.step, self.total_steps)
        self.optimizer.step(rate)
        self.method.after_step()
        num_tokens = sum(len(one) for one in records)
        self.progress.step += 1
        self.progress.trained_tokens += num_tokens
        self.progress.loader = self.loader.state_dict()
        self.progress.metrics = {"train_loss": loss, "train_mean_token_accuracy": num_correct / num_labels}
        return StepMetrics(
            step=self.progress.step,
            total_steps=self.total_steps,
            epoch=self.loader.epoch,
            train_loss=loss,
            train_mean_token_accuracy=num_correct / num_labels,
            learning_rate=rate,
            grad_norm=grad_norm,
            tokens=num_tokens,
            trained_tokens=self.progress.trained_tokens,
            tokens_per_second=num_tokens / (time.monotonic() - start),
            elapsed_seconds=self._elapsed(),
        )

    def _evaluation_due(self) -> bool:
        every = self.recipe.eval_every or self.loader.steps_per_epoch
        return self.validation is not None and (self.progress.step % every == 0 or self.progress.step == self.total_steps)

    def _evaluate(self) -> None:
        assert self.validation is not None
        assert self.recipe.microbatch_tokens is not None
        batches = microbatches(self.validation.sequences, self.recipe.microbatch_tokens, self.recipe.packing)
        loss, accuracy = evaluate(self.model, batches, self.world)
        self.progress.metrics |= {"valid_loss": loss, "valid_mean_token_accuracy": accuracy}
        self.send(Evaluated(step=self.progress.step, valid_loss=loss, valid_mean_token_accuracy=accuracy))

    def _note(self, metrics: StepMetrics) -> None:
        """Keep a line for the model card: about `NUM_ROWS` evenly spread, and every evaluation."""
        valid_loss = self.progress.metrics.get("valid_loss")
        if valid_loss is not None or metrics.step in (1, self.total_steps) or metrics.step % math.ceil(self.total_steps / NUM_ROWS) == 0:
            row = Row(step=metrics.step, train_loss=metrics.train_loss, valid_loss=valid_loss, learning_rate=metrics.learning_rate)
            self.progress.rows.append(row)

    def _checkpoint(self) -> None:
        """Unless this very step is on disk already, or there is no step yet."""
        if self.progress.step == self._saved_step:
            return
        self._saved_step = self.progress.step
        self.world.check_same(self.method.state())
        with self.world.together():
            if self.world.is_first:
                self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        checkpoint = Checkpoint(self.progress, self.method.state(), self.optimizer.state())
        saved = save_checkpoint(self.output, checkpoint, self.recipe.keep_checkpoints)
        self.send(
            CheckpointSaved(
                step=self.progress.step,
                path=str(saved.path),
                bytes=saved.num_bytes,
                manifest_sha256=saved.manifest_sha256,
                metrics=self.progress.metrics,
            )
        )

    def _export(self) -> None:
        folder = model_folder(self.output)
        export_model(self.model, self.tokenizer, self.progress, self.config.model, self.config.base_model_name, folder)
        self.send(Exported(path=str(folder)))

    def _load_data(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Dataset | None]:
        recipe = self.config.recipe
        train = load_dataset(self.config.train_file, tokenizer, recipe.max_seq_length)
        if train.num_without_targets:
            self._warn(f"{train.num_without_targets} records have nothing to learn within {recipe.max_seq_length} tokens; left out")
        if self.config.validation_file is not None:
            return train, load_dataset(self.config.validation_file, tokenizer, recipe.max_seq_length, "validation_file")
        if recipe.validation_fraction > 0:
            return train.split(recipe.validation_fraction, recipe.seed)
        return train, None

    def _new_loader(self, train: Dataset) -> Loader:
        assert self.recipe.batch_size is not None
        assert self.recipe.microbatch_tokens is not None
        return Loader(train.sequences, self.recipe.batch_size, self.recipe.microbatch_tokens, self.recipe.packing, self.recipe.seed)

    def _prepare_or_restore(self, train: Dataset) -> None:
        checkpoint = self.world.first_alone(lambda: newest_checkpoint(self.output, self._warn))
        if checkpoint is None:
            first = self._new_loader(train)
            self.method.prepare(self.model, [one for _ in range(NUM_PREPARING_STEPS) for one in first.next_step()])
        else:
            self._check_same_training(checkpoint.progress)
            self.method.restore(self.model, checkpoint.method)
            self.progress = checkpoint.progress
            self.loader.load_state_dict(self.progress.loader)
        self.optimizer = Optimizer(self.method.parameters(), self.recipe.weight_decay, self.recipe.max_grad_norm)
        if checkpoint is not None:
            self.optimizer.load(checkpoint.optimizer)
        self.world.check_same(self.method.state())

    def _check_same_training(self, before: Progress) -> None:
        now = self.progress
        if before.recipe != now.recipe:
            raise ConfigError("the output folder holds a checkpoint of another recipe; choose another folder", "recipe")
        if (before.num_records, before.num_tokens) != (now.num_records, now.num_tokens):
            raise ConfigError("the output folder holds a checkpoint of other training data; choose another folder", "train_file")
        if before.num_threads != now.num_threads:
            self._warn(f"continuing with {now.num_threads} threads after {before.num_threads}: results differ in the last bits")
        if before.num_processes != now.num_processes:
            self._warn(f"continuing with {now.num_processes} processes after {before.num_processes}: results differ in the last bits")

    def _started(self) -> Started:
        return Started(
            total_steps=self.total_steps,
            start_step=self.progress.step,
            num_records=self.progress.num_records,
            num_truncated_records=self.num_truncated,
            tokens_per_epoch=self.progress.num_tokens,
            device=self.model.device.type,
            num_trainable_parameters=sum(parameter.numel() for parameter in self.method.parameters().values()),
        )

    def _warn(self, text: str) -> None:
        self.send(Log(level="warn", text=text))

    def _elapsed(self) -> float:
        return time.monotonic() - self._started_at
