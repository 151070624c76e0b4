"""Train one model: load -> loop {step, evaluate, checkpoint} -> export.

The state of a training is the method's tensors, the optimizer's, and `Progress`; all three are in a checkpoint, nothing random happens
between, so a training that was interrupted and continued writes the same bytes as one that was not (same thread count).
The trainer knows paths and numbers; what happens is told through `send`. Of several processes (train.distributed) each computes a
share of every step, and the first alone writes.
"""

import gc
import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import torch

from falqon_core.contract.certificate import Certificate
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import (
    CheckpointSaved,
    Evaluated,
    ExitCode,
    Exported,
    Finished,
    Log,
    Message,
    Sampled,
    Started,
    StepMetrics,
)
from falqon_core.data.dataset import Dataset
from falqon_core.data.summary import summarize
from falqon_core.export.curve import MAX_POINTS
from falqon_core.export.fp8 import export_fp8
from falqon_core.methods.falqon import Falqon
from falqon_core.methods.objective import objective_of
from falqon_core.train.activation_checkpointing import checkpoint_activations
from falqon_core.train.checkpoint import Checkpoint, Progress, Row, newest_checkpoint, save_checkpoint
from falqon_core.train.data import load_data, training_loader, validation_microbatches
from falqon_core.train.distributed import ALONE, ProcessGroup
from falqon_core.train.early_stopping import early_stop_reason, note_evaluation
from falqon_core.train.evaluate import evaluate
from falqon_core.train.finish import best_checkpoint, document, new_model, restored_model
from falqon_core.train.memory import Guard
from falqon_core.train.metrics import Meter
from falqon_core.train.model import check_token_id, load_base_model, load_dimensions, load_tokenizer, select_device
from falqon_core.train.optimizer import Optimizer, learning_rate
from falqon_core.train.reference import apply_reference, compute_reference, stored_reference
from falqon_core.train.reference_outputs import capture_reference
from falqon_core.train.resume import check_same_training, placed_recipe
from falqon_core.train.samples import complete
from falqon_core.train.step import Work, train_step
from falqon_core.train.verifier import VerifierProcess

NUM_PREPARING_STEPS = 4  # batches a method may look at before training, e.g. for the gradient's directions
CERTIFIER_SECONDS = 10.0  # more than its libraries take to load


class Trainer:
    """One training in the folder `output`; continues by itself from the newest checkpoint found there."""

    def __init__(
        self, config: TrainConfig, output: Path, send: Callable[[Message], None], stop: Callable[[], bool], world: ProcessGroup = ALONE
    ) -> None:
        """Loads data, model and checkpoint. Raises the errors of `contract.errors`."""
        self.config, self.output, self.send, self.stop, self.world = config, output, send, stop, world
        if config.num_threads is not None:
            torch.set_num_threads(config.num_threads)
        self.device = select_device(config.device)
        self.dimensions = load_dimensions(config.model)
        self.tokenizer = load_tokenizer(config.model)
        train, self.validation = load_data(config, self.tokenizer, self._warn)
        for data in (train, self.validation):
            if data is not None:
                check_token_id(data.largest_token_id, self.dimensions.vocab_size, self.tokenizer)
        self.train, self.num_truncated = train, train.num_truncated
        checkpoint = world.rank0_first(lambda: newest_checkpoint(output, self._warn))
        recipe, before = config.recipe.resolved(len(train.sequences)), checkpoint.progress if checkpoint else None
        self.recipe = placed_recipe(recipe, before, self.dimensions, self.device, world)
        self.objective = objective_of(self.recipe)
        self.progress = Progress(
            recipe=self.recipe,
            num_records=len(train.sequences),
            num_tokens=train.num_tokens,
            num_threads=torch.get_num_threads(),
            num_processes=world.size,
            data=summarize(train, self.validation),
        )
        self.total_steps = self.recipe.num_steps(len(train.sequences))
        self._verifier: VerifierProcess | None = None
        self.guard = Guard(self.recipe, self.dimensions, self.device)
        self.model = load_base_model(config.model, self.device)
        if self.recipe.activation_checkpointing:
            checkpoint_activations(self.model)
        self.method = Falqon(self.recipe)
        self.guard(lambda: self._prepare_or_restore(train, checkpoint))

    def run(self) -> ExitCode:
        with ExitStack() as stack:
            self._stack = stack
            return self._run()

    def _run(self) -> ExitCode:
        self.meter = Meter(self.recipe, self.dimensions, self.device, self.total_steps)
        self._start_step = self._saved_step = self.progress.step
        self.send(self._started())
        while not self._ended():
            if self.world.any_rank(self.stop()):
                self._checkpoint()
                return ExitCode.STOPPED
            metrics = self.guard(self._step)
            self.send(metrics)
            is_best = self._evaluation_due() and self.guard(self._evaluate)
            self._note(metrics)
            self._expect_the_end(metrics)
            if is_best or self.progress.step % self.recipe.checkpoint_every == 0 or self._ended():
                self._checkpoint()
        with self.world.barrier_or_raise():
            if self.world.is_rank0:
                self._export()
        self.send(self._finished())
        return ExitCode.DONE

    def _ended(self) -> bool:
        return self.progress.step >= self.total_steps or early_stop_reason(self.progress) is not None

    def _step(self) -> StepMetrics:
        self.meter.start_step()
        progress = self.progress
        rate = learning_rate(self.recipe, progress.step, self.total_steps)
        records = self.loader.next_records()
        work = Work(
            number=progress.step + 1,
            microbatches=self.loader.microbatches(self.world.share(records)),
            count=sum(self.objective.count(one) for one in records),
            num_tokens=sum(len(one) for one in records),
        )
        result = train_step(self.model, self.method, self.objective, self.optimizer, work, rate, self.world)
        progress.step += 1
        progress.trained_tokens += result.num_tokens
        progress.loader = self.loader.state_dict()
        progress.metrics = {f"train_{name}": value for name, value in result.figures.items()}
        return self.meter.measure(result, progress, self.loader.epoch, rate)

    def _evaluation_due(self) -> bool:
        every = self.recipe.eval_every or self.loader.steps_per_epoch
        return self.validation is not None and (self.progress.step % every == 0 or self.progress.step == self.total_steps)

    def _evaluate(self) -> bool:
        """Tell validation loss, accuracy and samples; True when the loss is the lowest so far."""
        assert self.validation is not None
        step, recipe, sequences = self.progress.step, self.recipe, self.validation.sequences
        figures = evaluate(self.model, validation_microbatches(self.validation, recipe, self.device), self.objective, self.world)
        told = {f"valid_{name}": value for name, value in figures.items()}
        self.progress.metrics |= told
        self.send(Evaluated(step=step, **told))
        with self.world.barrier_or_raise():
            if recipe.num_samples and self.world.is_rank0:
                samples = complete(self.model, self.tokenizer, sequences, recipe.num_samples, recipe.sample_tokens)
                self.send(Sampled(step=step, samples=samples))
        return note_evaluation(self.progress, figures["loss"])

    def _note(self, metrics: StepMetrics) -> None:
        """Keep a point for the curve of the model card: about `MAX_POINTS` evenly spread, and every evaluation."""
        valid_loss = self.progress.metrics.get("valid_loss")
        if valid_loss is not None or metrics.step in (1, self.total_steps) or metrics.step % math.ceil(self.total_steps / MAX_POINTS) == 0:
            row = Row(step=metrics.step, train_loss=metrics.train_loss, valid_loss=valid_loss, learning_rate=metrics.learning_rate)
            self.progress.rows.append(row)

    def _checkpoint(self) -> None:
        """Unless this very step is on disk already, or there is no step yet."""
        if self.progress.step == self._saved_step:
            return
        self._saved_step = self.progress.step
        self.world.check_same(self.method.state())
        with self.world.barrier_or_raise():
            if self.world.is_rank0:
                self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        checkpoint = Checkpoint(self.progress, self.method.state() | self.reference, self.optimizer.state())
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
        config, folder = self.config, model_folder(self.output)
        if best := best_checkpoint(self.output, self.progress):
            self._let_go()
            self.model = restored_model(config.model, best, self.device)
        with new_model(folder) as staging:
            export_fp8(self.model, self.tokenizer, staging)
            certificate = self._certify(staging) if config.certificate else None
            document(staging, self.progress, config.model, config.base_model_name, self.device.type, certificate)
        self.send(Exported(path=str(folder)))

    def _certify(self, folder: Path) -> Certificate:
        """Raises `CertificateMismatch` when the files are not the model."""
        verifier = self._start_certifier()
        reference_outputs = capture_reference(self.model, self.tokenizer, self.validation, self.train)
        self._let_go()
        return verifier.certify(folder, reference_outputs, self.progress, self.device)

    def _expect_the_end(self, metrics: StepMetrics) -> None:
        """Have the verifier load its libraries while the last steps are computed."""
        seconds_left = metrics.elapsed_seconds / (metrics.step - self._start_step) * (self.total_steps - metrics.step)
        if self.config.certificate and self.world.is_rank0 and seconds_left < CERTIFIER_SECONDS:
            self._start_certifier()

    def _start_certifier(self) -> VerifierProcess:
        if self._verifier is None:
            self._verifier = self._stack.enter_context(closing(VerifierProcess(self.config)))
        return self._verifier

    def _let_go(self) -> None:
        """Of the model and all that holds it: another is about to be loaded, here or in another process."""
        self.model = self.method = self.optimizer = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepare_or_restore(self, train: Dataset, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            check_same_training(checkpoint.progress, self.progress, self._warn)
        train = self._attach_reference(train, checkpoint)
        self.loader = training_loader(train, self.recipe, self.device)
        if checkpoint is None:
            first = training_loader(train, self.recipe.model_copy(update={"microbatch_tokens": self.recipe.longest_record}), self.device)
            self.method.prepare(self.model, [one for _ in range(NUM_PREPARING_STEPS) for one in first.next_step()])
        else:
            self.method.restore(self.model, checkpoint.method)
            self.progress = checkpoint.progress
            self.loader.load_state_dict(self.progress.loader)
        self.optimizer = Optimizer(self.method.parameters(), self.recipe.weight_decay, self.recipe.max_grad_norm)
        if checkpoint is not None:
            self.optimizer.load(checkpoint.optimizer)
        self.world.check_same(self.method.state())

    def _attach_reference(self, train: Dataset, checkpoint: Checkpoint | None) -> Dataset:
        """Let pairs know what the base says of them; nothing for supervised training. The model must be the untouched base still."""
        data = {"train": train} | ({"validation": self.validation} if self.validation is not None else {})
        self.reference = compute_reference(self.model, data, self.recipe) if checkpoint is None else stored_reference(checkpoint.method)
        data = apply_reference(data, self.reference)
        self.validation = data.get("validation")
        return data["train"]

    def _started(self) -> Started:
        assert self.recipe.microbatch_tokens is not None
        return Started(
            total_steps=self.total_steps,
            start_step=self.progress.step,
            num_records=self.progress.num_records,
            num_truncated_records=self.num_truncated,
            num_validation_records=len(self.validation.sequences) if self.validation else 0,
            tokens_per_epoch=self.progress.num_tokens,
            device=self.device.type,
            num_trainable_parameters=sum(parameter.numel() for parameter in self.method.parameters().values()),
            microbatch_tokens=self.recipe.microbatch_tokens,
            activation_checkpointing=bool(self.recipe.activation_checkpointing),
        )

    def _finished(self) -> Finished:
        progress = self.progress
        return Finished(
            steps=progress.step,
            trained_tokens=progress.trained_tokens,
            elapsed_seconds=self.meter.elapsed_seconds,
            early_stop=early_stop_reason(progress),
            best_step=progress.best_step,
        )

    def _warn(self, text: str) -> None:
        self.send(Log(level="warn", text=text))
