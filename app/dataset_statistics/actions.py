"""What callers ask about the records of a file."""

from pydantic import ValidationError

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.dataset_statistics import service
from app.dataset_statistics.repository import StatisticsKey
from app.dataset_statistics.schemas import FileReportObject
from app.models import DatasetStatistics
from app.services import Services
from falqon_core.contract.config import Recipe
from falqon_core.contract.template_kwargs import read_template_kwargs, write_template_kwargs

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
    """Return what the check of a file found, and with `model` what the file is to it: the first
    request for that starts the work.
    """
    if model is None:
        if max_seq_length or validation_file or chat_template_kwargs:
            raise InvalidRequest(
                "model: name the model whose tokenizer counts.",
                param="model",
                code="missing_required_parameter",
            )
        with services.database.read() as session:
            file = service.get_file(session, caller.project_id, file_id)
            return FileReportObject.of(file, service.all_of(session, file))
    key = StatisticsKey(
        file_id,
        model,
        max_seq_length or DEFAULT_MAX_SEQ_LENGTH,
        validation_file or "",
        _one_text(chat_template_kwargs or ""),
    )
    with services.database.read() as session:
        file = service.get_file(session, caller.project_id, file_id)
        service.check_key(session, caller.project_id, key)
        inspection = service.find(session, caller.project_id, file, key)
    if inspection is None:
        with services.database.transaction() as session:
            service.create(session, caller.project_id, key)
        services.notifier.notify(DatasetStatistics, file_id)
        inspection = service.in_progress(key)
    return FileReportObject.of(file, [inspection])


def _one_text(chat_template_kwargs: str) -> str:
    try:
        return write_template_kwargs(read_template_kwargs(chat_template_kwargs))
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise InvalidRequest(
            "chat_template_kwargs: write a JSON object of names and values, such as "
            f'{{"enable_thinking": false}}; {reason}',
            param="chat_template_kwargs",
        ) from None
