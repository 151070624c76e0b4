from typing import Annotated

from fastapi import APIRouter, Query

from app.dataset_statistics import service
from app.dataset_statistics.schemas import FileReportObject
from app.http.dependencies import Reader, ServicesDep
from app.http.routes import ApiRoute

router = APIRouter(prefix="/v1/files", tags=["files"], route_class=ApiRoute)


@router.get("/{file_id}/report")
def retrieve_report(
    services: ServicesDep,
    caller: Reader,
    file_id: str,
    model: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=256,
            description="also the statistics of the file under this model",
        ),
    ] = None,
    max_seq_length: Annotated[
        int | None, Query(ge=8, le=1_048_576, description="as in the job; 2048 if left out")
    ] = None,
    validation_file: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=256,
            description="also the records that it shares with this file",
        ),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        Query(min_length=1, max_length=8192, description="as in the job, a JSON object"),
    ] = None,
) -> FileReportObject:
    """Report the errors of the file, line by line; with `model`, exact token counts, lengths,
    truncations, copies and leaks, and the first records token by token. The first request for a
    model starts that work and returns `in_progress`; repeat it later.
    """
    return service.retrieve_report(
        services, caller, file_id, model, max_seq_length, validation_file, chat_template_kwargs
    )
