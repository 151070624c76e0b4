"""Use cases of dataset statistics."""

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.base.plain_words import in_plain_words
from app.catalogue import service as catalogue
from app.dataset_statistics import repository
from app.dataset_statistics.repository import StatisticsKey
from app.dataset_statistics.repository import exact_amount as exact_amount
from app.dataset_statistics.repository import tokens_of as tokens_of
from app.dataset_statistics.schemas import FileReportObject, InspectionObject
from app.files import lookup as files
from app.models import DatasetStatistics, File, FileStatus, Purpose
from app.operations import service as operations
from app.services import Services
from falqon_core.contract.config import Recipe
from falqon_core.contract.template_kwargs import read_template_kwargs, write_template_kwargs

MAX_IN_PROGRESS = 20  # per project; each takes a worker minutes


DEFAULT_MAX_SEQ_LENGTH: int = Recipe.model_fields["max_seq_length"].default


def retrieve_report(
    services: Services,
    caller: Caller,
    file_id: str,
    model: str | None = None,
    max_seq_length: int | None = None,
    validation_file: str | None = None,
    chat_template_kwargs: str | None = None,
) -> FileReportObject:
    """Return the report of the file check, and with `model` the statistics of the file: the first
    request for those starts the work.
    """
    if model is None:
        if max_seq_length or validation_file or chat_template_kwargs:
            raise InvalidRequest(
                "model: name the model whose tokenizer counts.",
                param="model",
                code="missing_required_parameter",
            )
        with services.database.read() as session:
            file = get_file(session, caller.project_id, file_id)
            return FileReportObject.of(file, all_of(session, file))
    key = StatisticsKey(
        file_id,
        model,
        max_seq_length or DEFAULT_MAX_SEQ_LENGTH,
        validation_file or "",
        _one_text(chat_template_kwargs or ""),
    )
    with services.database.read() as session:
        file = get_file(session, caller.project_id, file_id)
        check_key(session, caller.project_id, key)
        inspection = find(session, caller.project_id, file, key)
    if inspection is None:
        with services.database.transaction() as session:
            create(session, caller.project_id, key)
        services.notifier.notify(DatasetStatistics, file_id)
        inspection = in_progress(key)
    return FileReportObject.of(file, [inspection])


def _one_text(chat_template_kwargs: str) -> str:
    try:
        return write_template_kwargs(read_template_kwargs(chat_template_kwargs))
    except ValidationError as error:
        reason = in_plain_words(error.errors(include_url=False)[0])
        raise InvalidRequest(
            "chat_template_kwargs: write a JSON object of names and values, such as "
            f'{{"enable_thinking": false}}; {reason}',
            param="chat_template_kwargs",
        ) from None


def get_file(session: Session, project_id: str, file_id: str) -> File:
    file = files.get(session, project_id, file_id)
    if file.purpose != Purpose.FINE_TUNE:
        raise InvalidRequest(
            f"id: {file_id} has purpose '{file.purpose}'; only files of purpose "
            f"'{Purpose.FINE_TUNE}' are checked and have a report.",
            param="id",
            code="no_report",
        )
    return file


def all_of(session: Session, file: File) -> list[InspectionObject]:
    return [InspectionObject.of(row) for row in repository.list_of_file(session, file.id)]


def check_key(session: Session, project_id: str, key: StatisticsKey) -> None:
    """Raise an error if a named model or file is unsuitable."""
    catalogue.get(session, project_id, key.model_id)
    if not key.validation_file_id:
        return
    files.get_usable(session, project_id, key.validation_file_id, "validation_file")
    if key.validation_file_id == key.file_id:
        raise InvalidRequest(
            "validation_file: it is the file itself.",
            param="validation_file",
            code="invalid_validation_file",
        )


def find(
    session: Session, project_id: str, file: File, key: StatisticsKey
) -> InspectionObject | None:
    """Return the statistics; None if they can be computed but were never requested."""
    row = repository.find(session, key)
    if row is not None:
        return InspectionObject.of(row)
    if file.status == FileStatus.ERROR:
        error = {
            "code": "invalid_training_file",
            "message": f"The file is not valid: {file.status_details}",
        }
        return _without_row(key, status="failed", error=error)
    file_ids = [file_id for file_id in (file.id, key.validation_file_id) if file_id]
    statuses = [files.get(session, project_id, file_id).status for file_id in file_ids]
    if any(status != FileStatus.PROCESSED for status in statuses):
        return in_progress(key)
    return None


def create(session: Session, project_id: str, key: StatisticsKey) -> None:
    repository.keep(session, key)
    operations.admit(session, DatasetStatistics, project_id, MAX_IN_PROGRESS)
    repository.add(session, project_id, key)


def in_progress(key: StatisticsKey) -> InspectionObject:
    return _without_row(key, status="in_progress")


def _without_row(key: StatisticsKey, **values: object) -> InspectionObject:
    names = {
        "model": key.model_id,
        "max_seq_length": key.max_seq_length,
        "validation_file": key.validation_file_id or None,
        "chat_template_kwargs": read_template_kwargs(key.chat_template_kwargs) or None,
    }
    return InspectionObject.model_validate(names | values)
