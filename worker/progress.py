"""How far a job is, when it will end and what it costs, from the trainer's messages. No database, no clock but the given one."""

from collections import deque
from collections.abc import Callable
from decimal import Decimal

from app.models import Job
from app.models.base import JsonObject
from falqon_core.spec.estimate import DEVICES, Estimate, dollars, remaining_seconds
from falqon_core.spec.messages import StepMetrics
from worker.gpu import Machine

STEPS_REMEMBERED = 256


class Progress:
    """`clock` gives the seconds since this attempt was claimed; staging holds the device too, so it is paid for."""

    def __init__(self, job: Job, machine: Machine, clock: Callable[[], float]) -> None:
        self._before = job.progress or {}
        self._device_seconds = job.device_seconds
        self._estimate = Estimate.model_validate(job.estimate).seconds if job.estimate else None
        self._machine = machine
        self._device = DEVICES.get(machine.device)
        self._clock = clock
        cost = self._before.get("cost")
        self._accrued_before = Decimal(cost["accrued"]) if cost else Decimal(0)
        self._seconds: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._last: StepMetrics | None = None

    def step(self, message: StepMetrics) -> None:
        if self._last is not None:
            self._seconds.append(message.elapsed_seconds - self._last.elapsed_seconds)
        self._last = message

    @property
    def device_seconds(self) -> float:
        return self._device_seconds + self._clock() * self._machine.num_devices

    def metrics(self, message: StepMetrics) -> JsonObject:
        """The data of a metrics event."""
        now = self.snapshot()
        cost = now["cost"] or {}
        return message.model_dump(exclude={"type"}, exclude_none=True) | {
            "eta_seconds": now["eta_seconds"],
            "cost_accrued": cost.get("accrued"),
            "cost_projected": cost.get("projected"),
        }

    def snapshot(self, *, ended: bool = False) -> JsonObject:
        """`jobs.progress`. `ended`: the job succeeded, with all its steps or stopped early."""
        last = self._last
        if last is None:
            return self._before | {"cost": self._cost((None, None, None))}
        low, expected, high = (0.0, 0.0, 0.0) if ended else self._time_left(last)
        return {
            "step": last.step,
            "total_steps": last.total_steps,
            "epoch": round(last.epoch, 4),
            "percent": 100.0 if ended else round(100 * last.step / max(1, last.total_steps), 2),
            "tokens_per_second": round(last.tokens_per_second, 1),
            "eta_seconds": _rounded(expected),
            "eta_low_seconds": _rounded(low),
            "eta_high_seconds": _rounded(high),
            "train_loss": last.train_loss,
            "trained_tokens": last.trained_tokens,
            "memory_bytes": last.memory_bytes,
            "mfu": None if last.mfu is None else round(last.mfu, 4),
            "gpu_utilization": last.gpu_utilization,
            "elapsed_seconds": round(last.elapsed_seconds, 1),
            "cost": self._cost((low, expected, high)),
        }

    def _time_left(self, last: StepMetrics) -> tuple[float, float, float] | tuple[None, None, None]:
        """From the measured steps; before there are any, the estimate's share."""
        steps_left = last.total_steps - last.step
        if measured := remaining_seconds(self._seconds, steps_left):
            return measured
        if self._estimate is None:
            return None, None, None
        share = steps_left / last.total_steps
        return self._estimate.low * share, self._estimate.expected * share, self._estimate.high * share

    def _cost(self, eta: tuple[float | None, float | None, float | None]) -> JsonObject | None:
        device = self._device
        if device is None:
            return None
        rate = device.usd_per_hour * self._machine.num_devices
        accrued = self._accrued_before + dollars(rate, self._clock())
        low, expected, high = eta

        def projected(seconds: float | None) -> str | None:
            return None if seconds is None else str(accrued + dollars(rate, seconds))

        return {
            "currency": "usd",
            "usd_per_device_hour": str(device.usd_per_hour),
            "price_source": device.price_source,
            "accrued": str(accrued),
            "projected": projected(expected),
            "projected_low": projected(low),
            "projected_high": projected(high),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
