"""How far a job is, when it will end and what it costs, from the trainer's messages. No database, no clock but the given one."""

import threading
from collections.abc import Callable
from decimal import Decimal

from app.models import Job
from app.models.base import JsonObject
from falqon_core.contract.config import Recipe
from falqon_core.contract.messages import Started, StepMetrics
from falqon_core.estimate.estimate import Actual, Range, compare
from falqon_core.estimate.eta import Remaining
from falqon_core.estimate.prices import Price, cents, usd
from worker.attempt.step_timing import Pace
from worker.gpu import Machine


class Progress:
    """One thread tells what the trainer says, another asks. `clock` gives the seconds since this attempt was claimed; staging holds
    the device too, so it is paid for."""

    def __init__(self, job: Job, machine: Machine, clock: Callable[[], float], price: Price | None) -> None:
        self._lock = threading.RLock()
        self._before = job.progress or {}
        self._device_seconds, self._execution_seconds = job.device_seconds or 0.0, job.execution_seconds or 0.0
        self._expected = Range.model_validate(job.estimate["seconds"]) if job.estimate else None
        self._overhead = job.estimate.get("overhead_seconds") if job.estimate else None
        self._machine, self._clock, self._price = machine, clock, price
        cost = self._before.get("cost")
        self._charged = Decimal(cost["accrued"]) if cost else Decimal(0)  # until `_charged_at`, at the rates of its time
        self._charged_at = 0.0
        self._pace = Pace(Recipe.model_validate(job.recipe) if job.recipe else None)
        self._last: StepMetrics | None = None
        self._tokens = 0
        self._heard_at = 0.0

    def listen(self) -> None:
        """The trainer has been started, or said something that only a trainer says that goes on."""
        self._heard_at = self._clock()

    def is_stuck(self, floor: float) -> bool:
        """Whether the trainer has been silent for much longer than it should be."""
        with self._lock:
            step, total_steps = (self._last.step, self._last.total_steps) if self._last else (0, 1)
            return self._clock() - self._heard_at > self._pace.patience(step, total_steps, floor)

    def started(self, message: Started) -> None:
        with self._lock:
            self._pace.started(message, self._clock(), self._overhead)
            self.listen()

    def step(self, message: StepMetrics) -> None:
        with self._lock:
            self._pace.step(message.elapsed_seconds, self._clock())
            self.listen()
            self._last, self._tokens = message, self._tokens + message.tokens

    def evaluated(self) -> None:
        with self._lock:
            self._pace.evaluated(self._clock())
            self.listen()

    def sampled(self) -> None:
        with self._lock:
            self._pace.sampled(self._clock())
            self.listen()

    def checkpointed(self) -> None:
        with self._lock:
            self._pace.checkpointed(self._clock())
            self.listen()

    def reprice(self, price: Price | None) -> None:
        """From now on; what has been charged stays."""
        with self._lock:
            now = self._clock()
            self._charged, self._charged_at, self._price = self._charged + self._since(now), now, price

    @property
    def device_seconds(self) -> float:
        return self._device_seconds + self._clock() * self._machine.num_devices

    @property
    def execution_seconds(self) -> float:
        return self._execution_seconds + self._clock()

    @property
    def accrued(self) -> Decimal | None:
        with self._lock:
            return None if self._price is None else cents(self._charged + self._since(self._clock()))

    @property
    def all_steps_done(self) -> bool:
        last = self._last
        return last is not None and last.step >= last.total_steps

    @property
    def measured(self) -> JsonObject:
        """Columns of the attempt."""
        with self._lock:
            return {"tokens": self._tokens, "train_seconds": self._last.elapsed_seconds} if self._last else {}

    @property
    def overhead_seconds(self) -> float:
        """So far, everything but the time from the first step to the last."""
        return max(0.0, self._clock() - (self._last.elapsed_seconds if self._last else 0.0))

    @property
    def columns(self) -> JsonObject:
        """Of the job, as they are now."""
        return {
            "progress": self.snapshot(),
            "device_seconds": self.device_seconds,
            "execution_seconds": self.execution_seconds,
        }

    def actual(self) -> Actual | None:
        """Of a job that succeeds now; one that stopped early is compared with nothing."""
        if self._expected is None:
            return None
        found = compare(self._expected, self.execution_seconds, self.accrued)
        return found if self.all_steps_done else found.model_copy(update={"ratio": None, "inside_band": None})

    def metrics(self, message: StepMetrics) -> JsonObject:
        """The data of a metrics event."""
        now = self.snapshot()
        cost = now["cost"] or {}
        return message.model_dump(exclude={"type"}, exclude_none=True) | {
            **{name: now[name] for name in ("eta_seconds", "eta_low_seconds", "eta_high_seconds")},
            **{f"cost_{name}": cost.get(name) for name in ("accrued", "projected", "projected_low", "projected_high")},
        }

    def snapshot(self, *, ended: bool = False) -> JsonObject:
        """`jobs.progress`. `ended`: the job succeeded, with all its steps or stopped early."""
        with self._lock:
            last = self._last
            if last is None:
                return self._before_the_first_step()
            left = Remaining(0.0, 0.0, 0.0) if ended else self._time_left(last)
            return {
                "step": last.step,
                "total_steps": last.total_steps,
                "epoch": round(last.epoch, 4),
                "percent": 100.0 if ended else round(100 * last.step / max(1, last.total_steps), 2),
                "tokens_per_second": round(last.tokens_per_second, 1),
                **_eta(left),
                "train_loss": last.train_loss,
                "trained_tokens": last.trained_tokens,
                "memory_bytes": last.memory_bytes,
                "mfu": None if last.mfu is None else round(last.mfu, 4),
                "gpu_utilization": last.gpu_utilization,
                "gpu_temperature": last.gpu_temperature,
                "elapsed_seconds": round(last.elapsed_seconds, 1),
                "cost": self._cost(left),
            }

    def _time_left(self, last: StepMetrics) -> Remaining | None:
        """From what this attempt has measured and from nothing else; before it has measured any step, the estimate's share."""
        if measured := self._pace.remaining(last.step, last.total_steps):
            return measured
        return self._estimated(last.step, last.total_steps)

    def _estimated(self, step: int, total_steps: int) -> Remaining | None:
        if self._expected is None:
            return None
        share = (total_steps - step) / total_steps
        return Remaining(self._expected.low * share, self._expected.expected * share, self._expected.high * share)

    def _before_the_first_step(self) -> JsonObject:
        """What earlier attempts reached, and no word of their rate."""
        left = self._estimated(self._before.get("step", 0), self._before.get("total_steps", 1))
        return self._before | (_eta(left) if "step" in self._before else {}) | {"cost": self._cost(left)}

    def _since(self, now: float) -> Decimal:
        """What the time since `_charged_at` costs."""
        price = self._price
        return Decimal(0) if price is None else usd(price.usd_per_device_hour * self._machine.num_devices, now - self._charged_at)

    def _cost(self, left: Remaining | None) -> JsonObject | None:
        price = self._price
        if price is None:
            return None
        accrued = self._charged + self._since(self._clock())

        def projected(seconds: float | None) -> str | None:
            rate = price.usd_per_device_hour * self._machine.num_devices
            return None if seconds is None else str(cents(accrued + usd(rate, seconds)))

        return {
            "currency": "usd",
            "usd_per_device_hour": str(price.usd_per_device_hour),
            "price_source": price.label,
            "accrued": str(cents(accrued)),
            "projected": projected(left and left.expected),
            "projected_low": projected(left and left.low),
            "projected_high": projected(left and left.high),
        }


def _eta(left: Remaining | None) -> JsonObject:
    low, expected, high = (None, None, None) if left is None else (round(seconds, 1) for seconds in left)
    return {"eta_seconds": expected, "eta_low_seconds": low, "eta_high_seconds": high}
