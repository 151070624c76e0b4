"""The engines that workers have loaded, as who administers them sees them."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.base.errors import NotFound
from app.inference import repository
from app.models import Engine


def list_loaded(session: Session, project_id: str | None) -> Sequence[Engine]:
    """Return those of base models and of the project; None: of every project."""
    return repository.loaded(session, project_id)


def keep_loaded(session: Session, model_id: str, keep: bool) -> Engine:
    """Exempt an engine from making room and from ending when idle, or no longer."""
    engine = repository.keep_loaded(session, model_id, keep)
    if engine is None:
        raise _unknown(model_id)
    return engine


def unload(session: Session, model_id: str) -> None:
    """End an engine with its worker's next heartbeat; answers that it streams end with an error.
    One that waits for a worker is taken by none.
    """
    if not repository.end(session, model_id):
        raise _unknown(model_id)


def _unknown(model_id: str) -> NotFound:
    return NotFound(
        f"The model '{model_id}' is not loaded.", param="model", code="engine_not_found"
    )
