from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.catalogue import service as catalogue
from app.errors import IllegalState, InvalidRequest
from app.files import service as files
from app.inspections import repository
from app.inspections.repository import Question
from app.inspections.schemas import InspectionObject
from app.models import File, FileStatus, Purpose

MAX_IN_PROGRESS = 20  # of one project; each takes a worker minutes


def get_file(session: Session, project_id: str, file_id: str) -> File:
    file = files.get(session, project_id, file_id)
    if file.purpose != Purpose.FINE_TUNE:
        message = f"id: {file_id} has purpose '{file.purpose}'; only files of purpose '{Purpose.FINE_TUNE}' are checked and have a report."
        raise InvalidRequest(message, param="id", code="no_report")
    return file


def all_of(session: Session, file: File) -> list[InspectionObject]:
    return [InspectionObject.of(row) for row in repository.of_file(session, file.id)]


def tokens_of(session: Session, project_id: str, file_ids: Sequence[str]) -> dict[str, int]:
    return repository.tokens_of(session, project_id, file_ids)


def checked(session: Session, project_id: str, question: Question) -> Question:
    """Raises what is wrong with it."""
    catalogue.get(session, project_id, question.model_id)
    if question.validation_file_id:
        files.get_usable(session, project_id, question.validation_file_id, "validation_file")
        if question.validation_file_id == question.file_id:
            raise InvalidRequest("validation_file: it is the file itself.", param="validation_file", code="invalid_validation_file")
    return question


def answer(session: Session, project_id: str, file: File, question: Question) -> InspectionObject | None:
    """None: it can be asked, and nobody has."""
    row = repository.find(session, question)
    if row is not None:
        return InspectionObject.of(row)
    if file.status == FileStatus.ERROR:
        error = {"code": "invalid_training_file", "message": f"The file is not valid: {file.status_details}"}
        return _without_row(question, status="failed", error=error)
    wanted = [file.id, question.validation_file_id] if question.validation_file_id else [file.id]
    if any(files.get(session, project_id, file_id).status != FileStatus.PROCESSED for file_id in wanted):
        return in_progress(question)
    return None


def ask(session: Session, project_id: str, question: Question) -> None:
    if repository.num_in_progress(session, project_id) >= MAX_IN_PROGRESS:
        raise IllegalState(
            f"{MAX_IN_PROGRESS} inspections of this project are in progress; ask again when one has ended.", code="too_many_inspections"
        )
    repository.ask(session, question)


def in_progress(question: Question) -> InspectionObject:
    return _without_row(question, status="in_progress")


def _without_row(question: Question, **values: object) -> InspectionObject:
    named = {
        "model": question.model_id,
        "max_seq_length": question.max_seq_length,
        "validation_file": question.validation_file_id or None,
    }
    return InspectionObject.model_validate(named | values)
