from sqlalchemy.orm import Session

from app.artifacts import repository
from app.catalogue import service as catalogue
from app.errors import NotFound
from app.models import Artifact


def of_model(session: Session, project_id: str, model_id: str) -> list[Artifact]:
    return repository.of_model(session, catalogue.get(session, project_id, model_id).id)


def get(session: Session, project_id: str, model_id: str, name: str) -> Artifact:
    artifact = repository.find(session, catalogue.get(session, project_id, model_id).id, name)
    if artifact is None:
        raise NotFound(f"The model '{model_id}' has no artifact '{name}'.", param="name")
    return artifact
