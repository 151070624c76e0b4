"""Progress, ETA and cost of a job from the trainer's messages. No database, no clock but the given
one."""

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from app.attempts.values import Columns
from app.models import Job
from app.models.base import JsonObject
from app.models.job_progress import JobProgress
from falqon_core.contract.figures import MAX_SECONDS
from falqon_core.contract.health import HealthChange
from falqon_core.contract.messages import (
    Evaluated,
    Exported,
    Merged,
    RangeTested,
    Started,
    StepMetrics,
    UntouchedEvaluated,
)
from falqon_core.estimate.estimate import Actual, compare
from falqon_core.estimate.eta import Eta
from falqon_core.estimate.learning_monitor import LearningMonitor
from falqon_core.estimate.prices import Price
from worker.attempt.cost_meter import CostMeter
from worker.attempt.step_timing import HANG_LOGS, StepTiming
from worker.machine.gpu import Machine

# An attempt that goes on after the last evaluation does not receive these again.
RESULT_FIELDS = {
    "num_trainable_parameters",
    "untouched_valid_loss",
    "valid_loss",
    "valid_loss_fp8_weights",
    "valid_loss_as_served",
    "model_step",
    "range_test",
}


class AttemptProgress:
    """One thread passes on the trainer's messages, another reads. `clock` gives the seconds since
    this attempt was claimed; staging holds the device too, so it is paid for.
    """

    def __init__(
        self, job: Job, machine: Machine, clock: Callable[[], float], price: Price | None
    ) -> None:
        self._lock = threading.RLock()
        self._before = job.progress or JobProgress()
        self._device_seconds = job.device_seconds or 0.0
        self._execution_seconds = job.execution_seconds or 0.0
        self._expected = job.estimate.seconds if job.estimate else None
        self._overhead = job.estimate.overhead_seconds if job.estimate else None
        self._machine = machine
        self._clock = clock
        accrued = self._before.cost.accrued if self._before.cost else Decimal(0)
        self._cost_meter = CostMeter(accrued, price, machine.num_devices)
        self._step_timing = StepTiming(job.recipe)
        self._last: StepMetrics | None = None
        # An earlier attempt may have ended during the export. `started` says if steps follow.
        self._no_step_follows = self._before.stopped_early or (
            "step" in self._before.model_fields_set
            and self._before.step >= self._before.total_steps
        )
        self._results: dict[str, Any] = {
            name: value
            for name in RESULT_FIELDS
            if (value := getattr(self._before, name)) is not None
        }
        automatic = job.estimate.automatic_rate if job.estimate else None
        self._health = LearningMonitor(
            job.recipe,
            self._before.health,
            self._before.first_loss,
            automatic.value if automatic else None,
        )
        self._tokens = 0
        self._heard_at = 0.0
        self._logged_at = 0.0

    def listen(self) -> None:
        """Note that the trainer has been started, or has sent a sign of life."""
        self._heard_at = self._clock()

    def is_stuck(self, floor: float) -> bool:
        """Return True if the trainer has been silent for much longer than it should be, or has sent
        nothing but logs for so long that it gets no further.
        """
        with self._lock:
            step = self._last.step if self._last else 0
            total_steps = self._last_step(self._last) if self._last else 1
            timeout = self._step_timing.hang_timeout(step, total_steps, floor)
            now = self._clock()
            silence = now - max(self._heard_at, self._logged_at)
            return silence > timeout or now - self._heard_at > max(timeout, HANG_LOGS * floor)

    def logged(self) -> None:
        """Note a sign of life that may come for a while without any step."""
        with self._lock:
            self._logged_at = self._clock()

    def started(self, message: Started) -> None:
        with self._lock:
            self._step_timing.started(message, self._clock(), self._overhead)
            self._results["num_trainable_parameters"] = message.num_trainable_parameters
            self._no_step_follows = message.start_step >= message.total_steps
            self._health.started(message)
            self.listen()

    def step(self, message: StepMetrics) -> None:
        with self._lock:
            self._step_timing.step(message.elapsed_seconds, self._clock())
            self.listen()
            self._last = message
            self._health.step(message)
            self._tokens += message.tokens

    def evaluated(self, message: Evaluated) -> None:
        with self._lock:
            self._step_timing.evaluated(self._clock())
            self._results["valid_loss"] = message.valid_loss
            self._health.evaluated(message)
            self.listen()

    def untouched_evaluated(self, message: UntouchedEvaluated) -> None:
        with self._lock:
            self._results["untouched_valid_loss"] = message.valid_loss
            self._health.untouched_evaluated(message)
            self.listen()

    def finished(self) -> None:
        with self._lock:
            self._health.finished()

    def stopped_early(self) -> None:
        """Note that no step follows, although not all are done."""
        with self._lock:
            self._no_step_follows = True
            self._results["stopped_early"] = True
            self.listen()

    def take_health_changes(self) -> list[HealthChange]:
        """Return the findings that began or ended since the last call."""
        with self._lock:
            return self._health.take_changes()

    def merged(self, message: Merged) -> None:
        with self._lock:
            self._results |= message.model_dump(include=RESULT_FIELDS, exclude_none=True)
            self._health.merged(message)
            self.listen()

    def exported(self, message: Exported) -> None:
        with self._lock:
            self._results["model_step"] = message.step
            self.listen()

    def range_tested(self, message: RangeTested) -> None:
        with self._lock:
            self._results["range_test"] = message.result
            self.listen()

    def sampled(self) -> None:
        with self._lock:
            self._step_timing.sampled(self._clock())
            self.listen()

    def checkpointed(self) -> None:
        with self._lock:
            self._step_timing.checkpointed(self._clock())
            self.listen()

    def reprice(self, price: Price | None) -> None:
        """Charge another price from now on; what has been charged stays."""
        with self._lock:
            self._cost_meter.reprice(price, self._clock())

    @property
    def device_seconds(self) -> float:
        return self._device_seconds + self._clock() * self._machine.num_devices

    @property
    def execution_seconds(self) -> float:
        return self._execution_seconds + self._clock()

    @property
    def accrued(self) -> Decimal | None:
        with self._lock:
            return self._cost_meter.accrued(self._clock())

    @property
    def all_steps_done(self) -> bool:
        last = self._last
        return last is not None and last.step >= last.total_steps

    @property
    def no_step_follows(self) -> bool:
        """Return True once nothing but the export is left: after all steps, or an early stop."""
        return self._no_step_follows or self.all_steps_done

    @property
    def measured(self) -> JsonObject:
        """The attempt's columns."""
        with self._lock:
            if self._last is None:
                return {}
            return {"tokens": self._tokens, "train_seconds": self._last.elapsed_seconds}

    @property
    def overhead_seconds(self) -> float:
        """Everything so far but the time from the first step to the last."""
        training_seconds = self._last.elapsed_seconds if self._last else 0.0
        return max(0.0, self._clock() - training_seconds)

    @property
    def columns(self) -> Columns:
        """The job's columns as they are now."""
        return self._columns(self.snapshot())

    @property
    def last_columns(self) -> Columns:
        """The job's columns, now that it succeeds: with all its steps or stopped early."""
        return self._columns(self.snapshot(ended=True))

    def _columns(self, progress: JobProgress) -> Columns:
        return Columns(
            progress=progress,
            device_seconds=self.device_seconds,
            execution_seconds=self.execution_seconds,
        )

    def actual(self) -> Actual | None:
        """Compare a job that succeeds now with its estimate, but not one that stopped early, nor a
        range test: it ends when the loss diverges, and exports nothing.
        """
        if self._expected is None:
            return None
        actual = compare(self._expected, self.execution_seconds, self.accrued)
        if self.all_steps_done and "range_test" not in self._results:
            return actual
        return actual.model_copy(update={"ratio": None, "inside_band": None})

    def metrics(self, message: StepMetrics) -> JsonObject:
        """Return the data of a metrics event."""
        now = self.snapshot()
        eta = now.model_dump(include={"eta_seconds", "eta_low_seconds", "eta_high_seconds"})
        cost = now.cost.model_dump(mode="json") if now.cost else {}
        names = ("accrued", "projected", "projected_low", "projected_high")
        return {
            **message.model_dump(exclude={"type"}, exclude_none=True),
            **eta,
            **{f"cost_{name}": cost.get(name) for name in names},
        }

    def snapshot(self, *, ended: bool = False) -> JobProgress:
        """Say how far the job is. `ended`: it succeeded, with all its steps or stopped early."""
        with self._lock:
            last = self._last
            if last is None:
                return self._before_the_first_step(ended=ended)
            left = Eta(0.0, 0.0, 0.0) if ended else self._time_left(last)
            share = 1.0 if ended else min(1.0, last.step / last.total_steps)
            percent = round(100 * share, 2)
            return JobProgress(
                step=last.step,
                total_steps=last.total_steps,
                epoch=round(last.epoch, 4),
                percent=percent,
                tokens_per_second=round(last.tokens_per_second, 1),
                seconds_per_step=self._step_timing.seconds_per_step,
                **_eta(left),
                train_loss=last.train_loss,
                first_loss=self._health.first_loss,
                health=self._health.findings,
                **self._results,
                trained_tokens=last.trained_tokens,
                memory_bytes=last.memory_bytes,
                mfu=None if last.mfu is None else round(last.mfu, 4),
                gpu_utilization=last.gpu_utilization,
                gpu_temperature=last.gpu_temperature,
                elapsed_seconds=round(last.elapsed_seconds, 1),
                cost=self._cost_meter.cost(self._clock(), left),
            )

    def _time_left(self, last: StepMetrics) -> Eta | None:
        """Return the ETA from this attempt's measurements alone; before any step was measured, the
        estimate's share."""
        last_step = self._last_step(last)
        if measured := self._step_timing.remaining(last.step, last_step):
            return Eta(*(min(seconds, MAX_SECONDS) for seconds in measured))
        return self._estimated(last.step, last_step)

    def _last_step(self, last: StepMetrics) -> int:
        """Return the number of the step after which none follows."""
        return last.step if self._no_step_follows else last.total_steps

    def _estimated(self, step: int, total_steps: int) -> Eta | None:
        if self._expected is None:
            return None
        share = (total_steps - step) / total_steps
        return Eta(
            self._expected.low * share, self._expected.expected * share, self._expected.high * share
        )

    def _before_the_first_step(self, *, ended: bool) -> JobProgress:
        """Return the progress of earlier attempts, without their rate."""
        before = self._before
        if ended:
            before = before.model_copy(update={"percent": 100.0})
        left = (
            Eta(0.0, 0.0, 0.0)
            if ended or self._no_step_follows
            else self._estimated(before.step, before.total_steps)
        )
        eta = _eta(left) if "step" in before.model_fields_set else {}
        cost = self._cost_meter.cost(self._clock(), left)
        health = {"health": self._health.findings} if self._health.findings else {}
        return before.model_copy(update={**eta, **self._results, **health, "cost": cost})


def _eta(left: Eta | None) -> dict[str, float | None]:
    if left is None:
        return {"eta_seconds": None, "eta_low_seconds": None, "eta_high_seconds": None}
    return {
        "eta_seconds": round(left.expected, 1),
        "eta_low_seconds": round(left.low, 1),
        "eta_high_seconds": round(left.high, 1),
    }
