from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.base.database import UNSYNCED, now_plus
from app.models import Upload, UploadPart, UploadStatus
from app.operations import leases

EXPIRED_AT_ONCE = 100


def find(session: Session, project_id: str, upload_id: str, *, lock: bool) -> Upload | None:
    """Find an upload; locked, it neither changes its status nor gains parts before the transaction
    ends.
    """
    statement = select(Upload).where(Upload.id == upload_id, Upload.project_id == project_id)
    return session.scalars(statement.with_for_update() if lock else statement).one_or_none()


def parts(session: Session, upload_id: str, ids: Sequence[str]) -> dict[str, UploadPart]:
    statement = select(UploadPart).where(UploadPart.upload_id == upload_id, UploadPart.id.in_(ids))
    return {part.id: part for part in session.scalars(statement)}


def size_of_parts(session: Session, upload_id: str) -> tuple[int, int]:
    """Return the number of parts and their total bytes."""
    counted = select(func.count(), func.coalesce(func.sum(UploadPart.bytes), 0)).where(
        UploadPart.upload_id == upload_id
    )
    count, total = session.execute(counted).one()
    return count, int(total)


def remove_parts(session: Session, upload_ids: Sequence[str]) -> Sequence[str]:
    """Remove the parts and return the keys of their bytes."""
    statement = (
        delete(UploadPart)
        .where(UploadPart.upload_id.in_(upload_ids))
        .returning(UploadPart.storage_key)
    )
    return session.scalars(statement, execution_options=UNSYNCED).all()


def renew(session: Session, upload: Upload, lease_seconds: float) -> bool:
    """Extend the lease of a completion. Return False when it is lost or the upload has ended."""
    is_mine = (*leases.is_attempt(upload), Upload.status == UploadStatus.PENDING)
    statement = update(Upload).where(*is_mine).values(lease_expires_at=now_plus(lease_seconds))
    return leases.execute(session, Upload, statement)


def release(session: Session, upload: Upload) -> None:
    """End the lease of a completion, unless another has begun."""
    statement = update(Upload).where(*leases.is_attempt(upload)).values(lease_expires_at=None)
    session.execute(statement, execution_options=UNSYNCED)


def any_overdue(session: Session) -> bool:
    overdue = (Upload.status == UploadStatus.PENDING, Upload.expires_at < now_plus())
    return session.scalar(select(Upload.id).where(*overdue).limit(1)) is not None


def expire(session: Session) -> Sequence[str]:
    """Expire some overdue uploads and return their ids."""
    overdue = (Upload.status == UploadStatus.PENDING, Upload.expires_at < now_plus())
    oldest = select(Upload.id).where(*overdue).order_by(Upload.expires_at).limit(EXPIRED_AT_ONCE)
    statement = (
        update(Upload)
        .where(Upload.id.in_(oldest), *overdue)
        .values(status=UploadStatus.EXPIRED)
        .returning(Upload.id)
    )
    return session.scalars(statement, execution_options=UNSYNCED).all()
