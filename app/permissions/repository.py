from collections.abc import Sequence

from sqlalchemy import delete as sql_delete
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.base.database import insert_or
from app.base.ids import new_id
from app.models import CheckpointPermission, Project
from app.permissions.schemas import Order


def add(
    session: Session, checkpoint_id: str, project_ids: Sequence[str]
) -> list[CheckpointPermission]:
    """Return one permission for each project, including existing ones."""
    for project_id in project_ids:
        values = {"id": new_id("cp_"), "checkpoint_id": checkpoint_id, "project_id": project_id}
        session.execute(
            insert_or(session, CheckpointPermission).values(values).on_conflict_do_nothing()
        )
    statement = select(CheckpointPermission).where(
        CheckpointPermission.checkpoint_id == checkpoint_id
    )
    return list(
        session.scalars(
            statement.where(CheckpointPermission.project_id.in_(project_ids)).order_by(
                CheckpointPermission.id
            )
        )
    )


def find(session: Session, checkpoint_id: str, permission_id: str) -> CheckpointPermission | None:
    statement = select(CheckpointPermission).where(
        CheckpointPermission.id == permission_id,
        CheckpointPermission.checkpoint_id == checkpoint_id,
    )
    return session.scalars(statement).one_or_none()


def page(
    session: Session,
    checkpoint_id: str,
    *,
    project_id: str | None,
    order: Order,
    after: str | None,
    limit: int,
) -> list[CheckpointPermission]:
    """Return permissions by creation, at most one more than `limit`."""
    id_ = CheckpointPermission.id
    statement = (
        select(CheckpointPermission)
        .where(CheckpointPermission.checkpoint_id == checkpoint_id)
        .limit(limit + 1)
    )
    if project_id is not None:
        statement = statement.where(CheckpointPermission.project_id == project_id)
    if after is not None:
        statement = statement.where(id_ > after if order == "ascending" else id_ < after)
    return list(session.scalars(statement.order_by(id_ if order == "ascending" else id_.desc())))


def delete(session: Session, permission_id: str) -> None:
    session.execute(
        sql_delete(CheckpointPermission).where(CheckpointPermission.id == permission_id)
    )


def unknown_projects(session: Session, project_ids: Sequence[str]) -> list[str]:
    existing = set(session.scalars(select(Project.id).where(Project.id.in_(project_ids))))
    return [project_id for project_id in project_ids if project_id not in existing]
