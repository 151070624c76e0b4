from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.base.errors import RateLimited
from app.models import Project
from app.models.operation import Operation, OperationStatus

RETRY_SECONDS = 10  # the official client waits so long, and then retries by itself


def num_in_progress(session: Session, kind: type[Operation], project_id: str) -> int:
    is_counted = (kind.project_id == project_id, kind.status == OperationStatus.IN_PROGRESS)
    return session.scalars(select(func.count()).select_from(kind).where(*is_counted)).one()


def admit(session: Session, kind: type[Operation], project_id: str, limit: int) -> None:
    """Raise `RateLimited` if a project has `limit` operations of this kind in progress.

    The project's row is locked, so of two requests at once the second counts the operation of the
    first. It is the last row that any transaction locks: lock what the operation refers to before.
    """
    session.execute(
        select(Project.id).where(Project.id == project_id).with_for_update(key_share=True)
    )
    if num_in_progress(session, kind, project_id) >= limit:
        nouns = f"{kind.noun}es" if kind.noun.endswith("ch") else f"{kind.noun}s"
        raise RateLimited(
            f"{limit} {nouns.replace('_', ' ')} of this project are in progress, the maximum; try "
            "again when one has ended.",
            code=f"too_many_{nouns}",
            headers={"retry-after": str(RETRY_SECONDS), "x-should-retry": "true"},
        )
