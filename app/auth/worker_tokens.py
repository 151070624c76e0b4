"""Tokens of workers and the projects whose jobs they may execute. Only the hash is stored."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from app.auth import secrets
from app.base.database import now_plus
from app.base.errors import InvalidApiKey, NotFound
from app.models import Project, WorkerToken


@dataclass(frozen=True, slots=True)
class OpenToken:
    id: str
    project_ids: Sequence[str]  # archived projects excluded


def create(session: Session, name: str, project_ids: Sequence[str]) -> tuple[WorkerToken, str]:
    """Make a token; its secret is returned only here. Raises `NotFound` for unknown projects."""
    there = set(session.scalars(_open_projects(project_ids)))
    if missing := sorted(set(project_ids) - there):
        names = ", ".join(missing)
        raise NotFound(f"No such project, or it is archived: {names}", param="project_ids")
    public, secret = secrets.generate(secrets.WORKER_PREFIX)
    token = WorkerToken(
        id=f"wtok_{public}",
        name=name,
        project_ids=sorted(there),
        secret_sha256=secrets.digest(secret),
    )
    session.add(token)
    session.flush()
    return token, secret


def list_all(session: Session) -> Sequence[WorkerToken]:
    """Return the tokens that are not revoked, oldest first."""
    unrevoked = select(WorkerToken).where(WorkerToken.revoked_at.is_(None))
    return session.scalars(unrevoked.order_by(WorkerToken.created_at, WorkerToken.id)).all()


def revoke(session: Session, token_id: str) -> None:
    """Revoke a token: its worker learns with its next call that its job is lost."""
    statement = (
        update(WorkerToken)
        .where(WorkerToken.id == token_id, WorkerToken.revoked_at.is_(None))
        .values(revoked_at=now_plus())
        .returning(WorkerToken.id)
    )
    if session.scalar(statement) is None:
        raise NotFound(f"No such worker token: {token_id}")


def check_secret(session: Session, secret: str) -> OpenToken:
    """Return the access that the secret grants; raise `InvalidApiKey` if there is none."""
    token = None
    if secret.startswith(secrets.WORKER_PREFIX):
        valid = (
            WorkerToken.secret_sha256 == secrets.digest(secret),
            WorkerToken.revoked_at.is_(None),
        )
        token = session.scalars(select(WorkerToken).where(*valid)).one_or_none()
    if token is None:
        raise InvalidApiKey("Incorrect worker token provided.")
    return OpenToken(token.id, session.scalars(_open_projects(token.project_ids)).all())


def _open_projects(project_ids: Sequence[str]) -> Select[str]:
    return select(Project.id).where(Project.id.in_(project_ids), Project.archived_at.is_(None))
