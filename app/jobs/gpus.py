"""Number of GPUs of a job, decided when it is created. Free of the web framework."""

from collections.abc import Mapping
from typing import Final

from sqlalchemy.orm import Session

from app.base.errors import InvalidRequest, QuotaExceeded
from app.base.processes.device import CPU
from app.base.settings import Settings
from app.estimates import service as estimates
from app.models import Project
from app.models.falqon_options import ANY_DEVICE
from app.models.job_request import JobRequest
from app.workers import service as workers
from falqon_core.contract.config import Recipe

TOO_FEW = "too_few_gpus"
AUTO: Final = "auto"


def choose_num_gpus(
    session: Session, project_id: str, request: JobRequest, settings: Settings
) -> int:
    """Return the requested number of GPUs. Raises `InvalidRequest` if no live worker has as many;
    while there is no worker, the job waits for one. Raises `QuotaExceeded` above the ceiling of
    the project, at which the job could only wait.
    """
    requested = request.falqon.num_gpus or 1
    ceiling = session.get_one(Project, project_id).max_running_gpus
    least = 1 if requested == AUTO else requested
    if ceiling is not None and ceiling < least:
        raise QuotaExceeded(
            f"max_running_gpus: the running jobs of this project may hold {ceiling} GPUs, and "
            f"this one needs {least}. Ask for fewer, or ask the administrator for more.",
            param="max_running_gpus",
        )
    if requested == 1:
        return 1
    device = request.falqon.gpu
    is_cpu = estimates.target_of(session, settings, device).device.name == CPU
    most = most_of(workers.most_gpus(session, settings), device)
    if most is None and is_cpu:
        most = settings.slots
    if requested == AUTO:
        return most or 1 if ceiling is None else min(most or 1, ceiling)
    if most is not None and requested > most:
        kind = "" if device == ANY_DEVICE else f" of '{device}'"
        offer = f"no worker has more than {most}{kind}"
        if is_cpu:
            offer = f"this service trains on a CPU, which counts as {most}"
        raise InvalidRequest(
            f"falqon.num_gpus: {requested} GPUs of one machine are requested, and {offer}.",
            param="falqon.num_gpus",
            code=TOO_FEW,
        )
    return requested


def most_of(most_gpus: Mapping[str, int], device: str) -> int | None:
    """Return the most GPUs that a live worker has of this device, or of any; None if no live worker
    has it.
    """
    if device != ANY_DEVICE:
        return most_gpus.get(device)
    return max(most_gpus.values(), default=None)


def limit_auto(num_gpus: int, request: JobRequest, recipe: Recipe) -> int:
    """Return at most as many GPUs as a step has records, unless the request gives a number."""
    assert recipe.batch_size is not None, "resolve the recipe first"
    return min(num_gpus, recipe.batch_size) if request.falqon.num_gpus == AUTO else num_gpus
