from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.base.ids import new_id
from app.models import SourceToken
from app.models.base import JsonObject


def find(session: Session, project_id: str, kind: str) -> SourceToken | None:
    statement = select(SourceToken).where(
        SourceToken.project_id == project_id, SourceToken.kind == kind
    )
    return session.scalars(statement).one_or_none()


def list_of_project(session: Session, project_id: str) -> Sequence[SourceToken]:
    statement = select(SourceToken).where(SourceToken.project_id == project_id)
    return session.scalars(statement.order_by(SourceToken.kind)).all()


def put(session: Session, project_id: str, kind: str, secret: JsonObject) -> SourceToken:
    """Store a token, in place of the project's last one of this kind."""
    session.execute(
        delete(SourceToken).where(SourceToken.project_id == project_id, SourceToken.kind == kind)
    )
    token = SourceToken(id=new_id("stoken-"), project_id=project_id, kind=kind, secret=secret)
    session.add(token)
    session.flush()
    session.refresh(token)
    return token


def remove(session: Session, project_id: str, token_id: str) -> bool:
    statement = delete(SourceToken).where(
        SourceToken.project_id == project_id, SourceToken.id == token_id
    )
    return session.scalar(statement.returning(SourceToken.id)) is not None
