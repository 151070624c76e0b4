"""The models that fit a card, by the estimate of a job for one workload.

Nothing here was measured on a card: memory, time and cost are those that the service would state
before such a job.
"""

from dataclasses import dataclass

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import MethodName
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.devices import DEVICES, DeviceSpec
from falqon_core.estimate.estimate import GIB, Estimate, estimate
from falqon_core.estimate.memory import plan_memory, usable_bytes
from falqon_core.estimate.published import PUBLISHED_MODELS

NUM_RECORDS = 10_000
TOKENS_PER_RECORD = 500


@dataclass(frozen=True, slots=True)
class CardSize:
    """A device with its memory, under the name of its column; "cpu" counts its cores."""

    name: str
    device: DeviceSpec
    num_devices: int = 1


@dataclass(frozen=True, slots=True)
class Fit:
    """An estimated training of the workload. `tokens_at_once`: those of one forward pass; None
    where the model does not fit.
    """

    model: str
    method: MethodName
    card: CardSize
    tokens_at_once: int | None
    estimate: Estimate


def _unlisted(name: str) -> DeviceSpec:
    device = find_device(name)
    assert device is not None, name
    return device


# A card of each common size of memory, by the size that its vendor prints on it.
CARDS: tuple[CardSize, ...] = (
    CardSize("24 GB", DEVICES["rtx-4090"]),
    CardSize("32 GB", _unlisted("rtx-5090-31gib-sm120")),
    CardSize("48 GB", DEVICES["l40s"]),
    CardSize("80 GB", DEVICES["h100"]),
    CardSize("141 GB", DEVICES["h200"]),
)


def fit_model(model: str, method: MethodName, card: CardSize) -> Fit:
    """Estimate one epoch of the workload for a model of `PUBLISHED_MODELS`."""
    dimensions = PUBLISHED_MODELS[model]
    recipe = Recipe(method=method, num_epochs=1).resolved(NUM_RECORDS)
    device = card.device
    assert device.memory_gib is not None, "a fit needs the memory of the device"
    plan = plan_memory(
        dimensions.model_copy(update={"has_fp8": device.has_fp8}),
        recipe,
        usable_bytes(device.memory_gib * GIB),
        device.name == "cpu",
    )
    result = estimate(
        dimensions,
        recipe,
        num_records=NUM_RECORDS,
        tokens_per_epoch=NUM_RECORDS * TOKENS_PER_RECORD,
        device=device,
        num_devices=card.num_devices,
        tokens_basis="stated",
    )
    return Fit(model, method, card, plan.recipe.microbatch_tokens if plan else None, result)
