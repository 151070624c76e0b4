"""Files as users name them, and checks of their state."""

from sqlalchemy.orm import Session

from app.base.database import now
from app.base.errors import IllegalState, InvalidRequest, NotFound
from app.files import repository
from app.models import File, FileImport, FileStatus, Purpose

NO_SHA256 = ""  # hash of a file without bytes


def get(session: Session, project_id: str, file_id: str, *, lock: bool = False) -> File:
    """Return the file; with `lock` no new job takes it before the transaction ends."""
    file = repository.find(session, project_id, file_id, lock=lock)
    if file is None:
        raise NotFound(f"No such File object: {file_id}", param="id")
    return file


def find(session: Session, project_id: str, file_id: str | None) -> File | None:
    if file_id:
        return repository.find(session, project_id, file_id)
    return None


def get_usable(session: Session, project_id: str, file_id: str, param: str) -> File:
    """Return a file of records whose check has passed, or has not ended."""
    return _check_usable(session, repository.find(session, project_id, file_id), file_id, param)


def get_for_job(
    session: Session,
    project_id: str,
    training_file: str,
    validation_file: str | None,
    *,
    lock: bool,
) -> tuple[File, File | None]:
    """Return the files of a new job. Raises `InvalidRequest` if the job could only fail."""
    ids = [file_id for file_id in (training_file, validation_file) if file_id is not None]
    rows = repository.find_several(session, project_id, ids, lock=lock)
    files = {file.id: file for file in rows}
    training = _check_usable(session, files.get(training_file), training_file, "training_file")
    if validation_file is None:
        return training, None
    validation = files.get(validation_file)
    return training, _check_usable(session, validation, validation_file, "validation_file")


def get_for_batch(session: Session, project_id: str, file_id: str) -> File:
    """Return a file of requests, which stays while the transaction lasts."""
    file = repository.find(session, project_id, file_id, lock=True)
    return _check_usable(session, file, file_id, "input_file_id", Purpose.BATCH)


def import_of(session: Session, file: File) -> FileImport | None:
    """Return the import that the records of a file come from; None if they were uploaded."""
    return repository.imports_of(session, [file.id]).get(file.id)


def require_content(file: File) -> None:
    """Raise `IllegalState` if the source has brought no bytes."""
    if file.sha256 == NO_SHA256:
        raise IllegalState(
            f"{file.id} has no content: its source has not been read; `status` says why.",
            code="file_not_ready",
            param="id",
        )


def _check_usable(
    session: Session,
    file: File | None,
    file_id: str,
    param: str,
    purpose: Purpose = Purpose.FINE_TUNE,
) -> File:
    reason = None
    if file is None:
        reason = f"no such file: {file_id}"
    elif file.purpose != purpose:
        reason = f"{file_id} has purpose '{file.purpose}', not '{purpose}'"
    elif file.status == FileStatus.ERROR:
        reason = f"{file_id} is not valid: {file.status_details}"
    elif file.expires_at is not None and file.expires_at <= now(session):
        reason = f"{file_id} has expired"
    if file is None or reason is not None:
        raise InvalidRequest(f"{param}: {reason}", param=param, code=f"invalid_{param}")
    return file
