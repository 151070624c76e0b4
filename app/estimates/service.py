import os

from pydantic import ValidationError

from app.errors import InvalidRequest
from app.models.base import JsonObject
from app.settings import Settings
from falqon_core.spec.config import Recipe
from falqon_core.spec.errors import ModelError
from falqon_core.spec.estimate import DEVICES, Device, Estimate, estimate, tokens_from_characters
from falqon_core.spec.models import ModelDimensions
from falqon_core.spec.records import FileReport


def device_of(settings: Settings) -> tuple[Device, int]:
    """What this service trains on, and how many: on a CPU, its cores."""
    name = "cpu" if settings.device == "auto" else settings.device
    if name not in DEVICES:
        raise ValueError(f"FALQON_DEVICE is '{name}'; known devices: {', '.join(sorted(DEVICES))}")
    return DEVICES[name], (settings.num_threads or len(os.sched_getaffinity(0))) if name == "cpu" else 1


def check_device(name: str, settings: Settings) -> None:
    """Raises `InvalidRequest` for a device that this service does not train on."""
    ours = device_of(settings)[0].name
    if name not in ("any", ours):
        raise InvalidRequest(f"falqon.gpu: this service trains on '{ours}', not on '{name}'.", param="falqon.gpu", code="gpu_not_available")


def num_training_records(recipe: Recipe, num_records: int) -> int:
    """Without those that are held out for validation; the trainer counts the same way."""
    held_out = max(1, round(recipe.validation_fraction * num_records)) if recipe.validation_fraction > 0 else 0
    return num_records - held_out


def estimate_job(config: JsonObject, recipe: Recipe, report: FileReport, settings: Settings, *, num_tokens: int | None = None) -> Estimate:
    """`recipe` must be resolved. `num_tokens`: of the whole training file, once this model's tokenizer has counted them."""
    device, num_devices = device_of(settings)
    records = max(1, num_training_records(recipe, report.num_records))
    counted = num_tokens if num_tokens is not None else tokens_from_characters(report.num_characters, report.num_sequences)
    return estimate(
        ModelDimensions.from_config(config),
        recipe,
        num_records=records,
        tokens_per_epoch=counted * records // max(1, report.num_records),
        device=device,
        num_devices=num_devices,
        tokens_basis="characters" if num_tokens is None else "counted",
    )


def check_fits_model(config: JsonObject, recipe: Recipe) -> None:
    """Raises `InvalidRequest` for what the trainer would refuse on this base model."""
    try:
        shapes = ModelDimensions.from_config(config).linear_shapes
    except (ModelError, ValidationError) as error:
        raise InvalidRequest(f"model: {error}", param="model", code="model_refused") from None
    unknown = sorted(set(recipe.target_modules or ()) - set(shapes))
    if unknown:
        raise InvalidRequest(
            f"falqon.target_modules: this model has no linear layer {', '.join(unknown)}; it has {', '.join(shapes)}",
            param="falqon.target_modules",
        )
    smallest = min(inputs for name, (_, inputs) in shapes.items() if name in (recipe.target_modules or shapes))
    if recipe.rank > smallest:
        raise InvalidRequest(f"falqon.rank: {recipe.rank} is more than the {smallest} inputs of a layer", param="falqon.rank")
