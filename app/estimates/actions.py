"""What callers ask about estimates that were made."""

from app.auth.caller import Caller
from app.estimates import service
from app.estimates.schemas import AccuracyObject
from app.http.pagination import Page
from app.services import Services


def list_accuracy(services: Services, caller: Caller) -> Page[AccuracyObject]:
    """List how well the project's newest jobs kept their estimates."""
    with services.database.read() as session:
        rows = service.accuracy(session, caller.project_id)
    return Page[AccuracyObject].of(
        [
            AccuracyObject(id=f"{row.model}:{row.method}:{row.device}", **row._asdict())
            for row in rows
        ]
    )
