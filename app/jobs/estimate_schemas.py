from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, Field, computed_field

from app.jobs.queue_forecast import QueueObject
from falqon_core.estimate.estimate import Cost, Estimate, Range


class GpusObject(BaseModel):
    """Speed and cost of a number of GPUs."""

    num_devices: int
    seconds: Range
    cost: Cost


class DeviceObject(GpusObject):
    """Speed and cost of one GPU of a kind; on a CPU, of a slot."""

    device: str
    fits: bool | None


class EstimateObject(Estimate):
    queue: QueueObject
    by_num_gpus: Annotated[
        list[GpusObject],
        Field(description="for 1 up to as many GPUs as a worker has; empty on a CPU"),
    ]
    by_device: Annotated[
        list[DeviceObject], Field(description="for each kind of device that live workers have")
    ]

    @computed_field(description="the one of `by_device` that has a price and on which the job fits")  # type: ignore[prop-decorator]
    @property
    def cheapest_device(self) -> str | None:
        priced = [each for each in self.by_device if not each.cost.is_unpriced]
        return self._best_device(priced, lambda each: float(each.cost.expected))

    @computed_field(description="the one of `by_device` on which the job fits")  # type: ignore[prop-decorator]
    @property
    def fastest_device(self) -> str | None:
        return self._best_device(self.by_device, lambda each: each.seconds.expected)

    @staticmethod
    def _best_device(
        devices: list[DeviceObject], key: Callable[[DeviceObject], float]
    ) -> str | None:
        fitting = [each for each in devices if each.fits is not False]
        return min(fitting, key=key).device if fitting else None
