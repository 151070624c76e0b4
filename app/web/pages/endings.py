from typing import Annotated, Any

from fastapi import APIRouter, Query

from app.http.dependencies import ServicesDep
from app.jobs import endings
from app.web.job_view import tab_title
from app.web.visitor import Visitor

MAX_WATCHED = 100

streams = APIRouter()


@streams.get("/jobs/ended")
def list_endings(
    services: ServicesDep,
    caller: Visitor,
    job: Annotated[list[str] | None, Query(max_length=MAX_WATCHED)] = None,
) -> dict[str, Any]:
    """Say which of these jobs have ended, for a notification of each, and which to ask for next."""
    with services.database.read() as session:
        return {
            "ended": [
                {"id": row.id, "title": tab_title(row), "body": row.error_message or ""}
                for row in endings.list_ended(session, caller.project_id, job or [])
            ],
            "live": endings.list_live_ids(session, caller.project_id, limit=MAX_WATCHED),
        }
