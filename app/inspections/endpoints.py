from typing import Annotated

from fastapi import APIRouter, Query

from app.errors import InvalidRequest
from app.http.dependencies import ApiRoute, App, Reader
from app.inspections import service
from app.inspections.repository import Question
from app.inspections.schemas import FileReportObject
from falqon_core.contract.config import Recipe

DEFAULT_MAX_SEQ_LENGTH: int = Recipe.model_fields["max_seq_length"].default

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=ApiRoute)


@router.get("/{file_id}/report")
def retrieve_report(
    app: App,
    caller: Reader,
    file_id: str,
    model: Annotated[str | None, Query(min_length=1, max_length=256, description="also what the file is to this model")] = None,
    max_seq_length: Annotated[int | None, Query(ge=8, le=1_048_576, description="as in the job; 2048 if left out")] = None,
    validation_file: Annotated[
        str | None, Query(min_length=1, max_length=256, description="also which of its records are in this file")
    ] = None,
) -> FileReportObject:
    """What is wrong with the file, line by line; with `model`, exact token counts, lengths, truncations, copies and leaks, and the first
    records token by token. The first question about a model starts that work and is answered with `in_progress`; ask again."""
    if model is None:
        if max_seq_length is not None or validation_file is not None:
            raise InvalidRequest("model: name the model whose tokenizer counts.", param="model", code="missing_required_parameter")
        with app.database.read() as session:
            file = service.get_file(session, caller.project_id, file_id)
            return FileReportObject.of(file, service.all_of(session, file))
    question = Question(file_id, model, max_seq_length or DEFAULT_MAX_SEQ_LENGTH, validation_file or "")
    with app.database.read() as session:
        file = service.get_file(session, caller.project_id, file_id)
        service.checked(session, caller.project_id, question)
        found = service.answer(session, caller.project_id, file, question)
    if found is None:
        with app.database.transaction() as session:
            service.ask(session, caller.project_id, question)
        app.notifier.notify_inspection(file_id)
        found = service.in_progress(question)
    return FileReportObject.of(file, [found])
