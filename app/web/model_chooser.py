"""Models to choose from on the form of a new job: facts about the chosen one, and real models to
add where there is none.
"""

import time
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.base.settings import Settings
from app.catalogue import service as catalogue
from app.estimates import service as estimates
from app.model_imports import service as model_imports
from app.model_imports.schemas import ModelImportObject
from app.models import Model
from app.services import Services
from app.web.readme import read_license
from app.web.text import is_test_model
from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ModelError
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.records.file_check import FileReport

FINE_TUNED = "ft:"  # Beginning of the ids of fine-tuned models.
MAX_SHOWN_IMPORTS = 3
SHOWN_SECONDS = 3600.0  # since somebody asked for an import


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A model that anybody may fetch from the Hub, with its licence there."""

    id: str
    source: str
    summary: str


SUGGESTIONS = (
    Suggestion(
        "smollm2-135m-instruct",
        "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
        "135M parameters, 8k context, Apache 2.0; trains on a CPU",
    ),
    Suggestion(
        "qwen3-0.6b",
        "hf://Qwen/Qwen3-0.6B",
        "0.6B parameters, 40k context, Apache 2.0; for a small GPU, or a patient CPU",
    ),
    Suggestion(
        "qwen3-4b",
        "hf://Qwen/Qwen3-4B",
        "4B parameters, 40k context, Apache 2.0; for a GPU",
    ),
)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`memory_bytes`: of a training with the automatic settings on `device`; `fits`: None where
    the memory of the device is not known.
    """

    id: str
    is_test: bool
    num_parameters: int
    context: int | None
    license: str | None
    memory_bytes: int
    device: str
    fits: bool | None


def is_real(model_id: str) -> bool:
    """Return True for a base model that knows something."""
    return not is_test_model(model_id) and not model_id.startswith(FINE_TUNED)


def default_model(ids: list[str]) -> str:
    """Return the model that a form begins with: the first one that knows something."""
    return next(filter(is_real, ids), ids[0] if ids else "")


def read_facts(services: Services, caller: Caller, model_id: str) -> ModelFacts | None:
    """Return the facts about a model; None for one that is not here or has other dimensions."""
    try:
        with services.database.read() as session:
            model = catalogue.get(session, caller.project_id, model_id)
            dimensions = ModelDimensions.from_config(model.config)
            memory_bytes, device, fits = _memory(session, services.settings, model)
        files = artifacts.list_artifacts(services, caller, model_id).data
    except (NotFound, ModelError):
        return None
    return ModelFacts(
        id=model_id,
        is_test=is_test_model(model_id),
        num_parameters=dimensions.num_parameters,
        context=dimensions.max_position_embeddings,
        license=read_license(services, caller, files),
        memory_bytes=memory_bytes,
        device=device,
        fits=fits,
    )


def shown_imports(services: Services, caller: Caller) -> list[ModelImportObject]:
    """Return the newest models that are being added, or just were, to who may add some."""
    if not caller.administers_installation:
        return []
    since = time.time() - SHOWN_SECONDS
    newest = model_imports.list_imports(services).data[:MAX_SHOWN_IMPORTS]
    return [each for each in newest if each.created_at >= since]


def _memory(session: Session, settings: Settings, model: Model) -> tuple[int, str, bool | None]:
    recipe = Recipe().resolved(1, estimates.width_of(model))
    estimate = estimates.estimate_job(session, model, recipe, FileReport(num_records=1), settings)
    return estimate.memory_bytes, estimate.device, estimate.fits
