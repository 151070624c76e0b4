"""Train one model: load -> loop {step, evaluate, checkpoint} -> export.

`TrainState` is all that changes, and a checkpoint holds it; nothing random happens between, so a
training that was interrupted and continued writes the same bytes as one that was not (same thread
count; for a GPU see ops/fixed_order.py). The trainer knows paths and numbers; events are reported
through `send`. Of several processes (train.distributed) each computes a share of every step, and
rank 0 alone writes.
"""

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from transformers import PreTrainedModel

from falqon_core.contract.config import TrainConfig
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import (
    ExitCode,
    Exported,
    Finished,
    Log,
    Merged,
    RangeTested,
    Started,
    StepMetrics,
    StoppedEarly,
    TrainerMessage,
    UntouchedEvaluated,
)
from falqon_core.export.curve import MAX_CURVE_POINTS
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives import create_objective
from falqon_core.train.checkpoint import CurvePoint
from falqon_core.train.checkpointer import Checkpointer
from falqon_core.train.data import plan_validation
from falqon_core.train.distributed import SINGLE_PROCESS, ProcessGroup
from falqon_core.train.early_stopping import early_stop_reason
from falqon_core.train.evaluator import Evaluator
from falqon_core.train.exporter import Exporter, Verification, best_checkpoint, restore_model
from falqon_core.train.metrics import Meter
from falqon_core.train.optimizer import learning_rate
from falqon_core.train.range_test import compute_untouched_losses, run_range_test
from falqon_core.train.served import evaluate_as_served
from falqon_core.train.setup import set_up
from falqon_core.train.state import free_memory
from falqon_core.train.step import StepBatch, train_step

VERIFIER_SECONDS = 10.0  # More than the verifier's libraries take to load.


class Trainer:
    """One training in the folder `output`; continues by itself from the newest checkpoint in it."""

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        send: Callable[[TrainerMessage], None],
        stop: Callable[[], bool],
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Load data, model and checkpoint. Raises the errors of `contract.errors`, and
        `StopRequested` where `stop` returns True.

        `stop` is called before every step, and during long parts before the first; True ends the
        training with a checkpoint.
        """
        self._config = config
        self._output = output
        self._send = send
        self._stop = stop
        self._group = group
        setup = set_up(config, output, self._warn, self._report, stop, group)
        self._device = setup.device
        self._dimensions = setup.dimensions
        self._tokenizer = setup.tokenizer
        self._data = setup.data
        self._guard = setup.guard
        self.state = setup.state
        self._start_step = setup.state.progress.step
        self._recipe = setup.state.progress.recipe
        self._total_steps = self._recipe.num_steps(len(setup.data.train.sequences))
        self._objective = create_objective(self._recipe)

    def run(self) -> ExitCode:
        """Train, export and certify, or run a range test. Return the exit code; raises the errors
        of `contract.errors`.
        """
        if self._recipe.find_rate:
            return self._find_rate()
        config = self._config
        verification = Verification(config, self._data) if config.certificate else None
        exporter = Exporter(
            config.model, config.base_model_name, self._device, verification, self._warn
        )
        with closing(exporter):
            return self._train(exporter)

    def _train(self, exporter: Exporter) -> ExitCode:
        evaluator = self._create_evaluator()
        self._guard(lambda: evaluator.evaluate_untouched(self.state, self._report, self._stop))
        meter = self._create_meter()
        self._send(self._started())
        untouched_loss = self.state.progress.untouched_valid_loss
        if untouched_loss is not None:
            self._send(UntouchedEvaluated(valid_loss=untouched_loss))
        with self._create_checkpointer() as checkpointer:
            code = self._run_steps(meter, evaluator, checkpointer, exporter)
        if code == ExitCode.STOPPED:
            return code
        self._reload_best()
        with self._group.rank0_alone() as is_alone:
            if is_alone:
                self._export(exporter)
        self._send(self._finished(meter))
        return code

    def _find_rate(self) -> ExitCode:
        group = self._group
        losses = self._guard(
            lambda: compute_untouched_losses(
                self.state, self._data.train, self._objective, group, self._report, self._stop
            )
        )
        meter = self._create_meter()
        self._send(self._started())
        result = run_range_test(
            losses,
            step=lambda: self._guard(lambda: self._step(meter)),
            stop=lambda: group.any_rank(self._stop()),
            send=self._send,
        )
        if result is None:
            return ExitCode.STOPPED
        self._send(RangeTested(result=result))
        self._send(self._finished(meter))
        return ExitCode.DONE

    def _run_steps(
        self, meter: Meter, evaluator: Evaluator, checkpointer: Checkpointer, exporter: Exporter
    ) -> ExitCode:
        state = self.state
        while not self._has_ended():
            checkpointer.report()
            if self._group.any_rank(self._stop()):
                checkpointer.save(state)
                return ExitCode.STOPPED
            metrics = self._guard(lambda: self._step(meter))
            self._send(metrics)
            is_best = False
            if evaluator.is_due(metrics.step):
                is_best = self._guard(lambda: evaluator.evaluate(state))
            self._record_curve_point(metrics)
            if self._group.is_rank0 and self._seconds_left(metrics) < VERIFIER_SECONDS:
                exporter.prestart_verifier()
            is_periodic = metrics.step % self._recipe.checkpoint_every == 0
            if is_best or is_periodic or self._has_ended():
                checkpointer.save(state)
        if reason := self._early_stop_reason():
            self._send(StoppedEarly(step=state.progress.step, reason=reason))
        return ExitCode.DONE

    def _has_ended(self) -> bool:
        has_all_steps = self.state.progress.step >= self._total_steps
        return has_all_steps or self._early_stop_reason() is not None

    def _early_stop_reason(self) -> str | None:
        """Return why no step follows though some are left; None while that is not so."""
        progress = self.state.progress
        return early_stop_reason(progress) if progress.step < self._total_steps else None

    def _step(self, meter: Meter) -> StepMetrics:
        meter.start_step()
        state = self.state
        progress = state.progress
        rate = learning_rate(self._recipe, progress.step, self._total_steps)
        records = state.loader.next_records()
        batch = StepBatch(
            step=progress.step + 1,
            microbatches=state.loader.microbatches(self._group.share(records)),
            total_count=sum(self._objective.count(record) for record in records),
            num_tokens=sum(len(record) for record in records),
        )
        result = train_step(
            state.model, state.method, self._objective, state.optimizer, batch, rate, self._group
        )
        progress.step += 1
        progress.trained_tokens += result.num_tokens
        progress.loader = state.loader.state_dict()
        progress.metrics = {f"train_{name}": value for name, value in result.metrics.items()}
        return meter.measure(result, progress, state.loader.epoch, rate)

    def _record_curve_point(self, metrics: StepMetrics) -> None:
        """Keep a point for the curve of the model card: about `MAX_CURVE_POINTS` evenly spread, and
        every evaluation.
        """
        progress = self.state.progress
        valid_loss = progress.metrics.get("valid_loss")
        if (
            valid_loss is not None
            or metrics.step in (1, self._total_steps)
            or metrics.step % math.ceil(self._total_steps / MAX_CURVE_POINTS) == 0
        ):
            point = CurvePoint(
                step=metrics.step,
                train_loss=metrics.train_loss,
                valid_loss=valid_loss,
                learning_rate=metrics.learning_rate,
            )
            progress.rows.append(point)

    def _seconds_left(self, metrics: StepMetrics) -> float:
        seconds_per_step = metrics.elapsed_seconds / (metrics.step - self._start_step)
        return seconds_per_step * (self._total_steps - metrics.step)

    def _export(self, exporter: Exporter) -> None:
        progress = self.state.progress
        folder = model_folder(self._output)
        exporter.export(self._take_merged_model, self._tokenizer, progress, folder)
        self._send(Exported(step=self._exported_step(), path=str(folder)))

    def _exported_step(self) -> int:
        """Return the step of the lowest validation loss, or the last where none is held out."""
        progress = self.state.progress
        return progress.step if progress.best_step is None else progress.best_step

    def _take_merged_model(self) -> PreTrainedModel:
        """Return the model to export; the trained one is not kept beside it."""
        state = self.state
        is_sharded = self._group.is_sharded
        best = None if is_sharded else best_checkpoint(self._output, state.progress)
        if best is None:
            state.method.merge(state.model)
            model = state.release_model()
        else:
            state.release_model()
            free_memory(self._device)
            model = restore_model(self._config.model, best, self._device)
            state.progress.metrics = dict(best.progress.metrics)
        self._evaluate_as_served(model)
        return model

    def _reload_best(self) -> None:
        """Take a sharded model to the checkpoint that early stopping selects: no rank could load it
        alone.
        """
        with self._group.barrier_or_raise():
            pass  # The first rank has written it by now.
        method = self.state.method
        if self._group.is_sharded and isinstance(method, Falqon):
            best = best_checkpoint(self._output, self.state.progress)
            if best is not None:
                method.reload(best.method)
                self.state.progress.metrics = dict(best.progress.metrics)

    def _evaluate_as_served(self, model: PreTrainedModel) -> None:
        """Send the validation losses of the merged `model` beside that of the trained one."""
        progress = self.state.progress
        loss = progress.metrics.get("valid_loss")
        if self._data.validation is None or loss is None:
            return
        plan = plan_validation(self._data.validation, self._recipe, self._device)
        served = evaluate_as_served(model, self._recipe, loss, plan, self._objective)
        progress.metrics["valid_loss_as_served"] = served.weights_and_activations
        if served.weights is not None:
            progress.metrics["valid_loss_fp8_weights"] = served.weights
        self._send(
            Merged(
                step=self._exported_step(),
                weights=self._recipe.weights,
                valid_loss=loss,
                valid_loss_fp8_weights=served.weights,
                valid_loss_as_served=served.weights_and_activations,
            )
        )

    def _create_checkpointer(self) -> Checkpointer:
        is_cpu = self._device.type == "cpu"
        return Checkpointer(
            self._output, self._start_step, self._send, self._group, self._device, not is_cpu
        )

    def _create_evaluator(self) -> Evaluator:
        return Evaluator(
            self._data.validation,
            self._recipe.evaluation_steps(
                len(self._data.train.sequences), self._num_validation_records
            ),
            self._total_steps,
            self._tokenizer,
            self._recipe,
            self._objective,
            self._device,
            self._send,
            self._group,
        )

    @property
    def _num_validation_records(self) -> int:
        validation = self._data.validation
        return len(validation.sequences) if validation else 0

    def _create_meter(self) -> Meter:
        return Meter(
            self._recipe, self._dimensions, self._device, self._group.size, self._total_steps
        )

    def _started(self) -> Started:
        assert self._recipe.microbatch_tokens is not None
        progress = self.state.progress
        parameters = self.state.method.parameters().values()
        return Started(
            total_steps=self._total_steps,
            start_step=self._start_step,
            num_records=progress.num_records,
            num_examples=len(self._data.train.sequences),
            num_truncated_records=self._data.train.num_truncated,
            num_left_out_records=self._data.train.num_without_targets,
            num_validation_records=self._num_validation_records,
            tokens_per_epoch=progress.num_tokens,
            device=self._device.type,
            num_trainable_parameters=sum(parameter.numel() for parameter in parameters),
            microbatch_tokens=self._recipe.microbatch_tokens,
            activation_checkpointing=bool(self._recipe.activation_checkpointing),
            best_step=progress.best_step,
            best_valid_loss=progress.best_valid_loss,
        )

    def _finished(self, meter: Meter) -> Finished:
        progress = self.state.progress
        return Finished(
            steps=progress.step,
            trained_tokens=progress.trained_tokens,
            elapsed_seconds=meter.elapsed_seconds,
            early_stop=self._early_stop_reason(),
            best_step=progress.best_step,
        )

    def _warn(self, text: str) -> None:
        self._send(Log(level="warn", text=text))

    def _report(self, text: str) -> None:
        self._send(Log(level="info", text=text))
