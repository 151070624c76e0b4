from collections.abc import Sequence

from sqlalchemy import Select, delete, or_, select, update
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.attributes import set_committed_value

from app.base.database import NUM_SEARCHED, UNSYNCED, now_plus, now_plus_once
from app.base.ids import new_id
from app.base.storage import Stored
from app.files.schemas import Order
from app.models import (
    Batch,
    DatasetStatistics,
    File,
    FileCheck,
    FileImport,
    FileStatus,
    Job,
    OperationStatus,
    Purpose,
)
from app.models.file import REPORT_WITHOUT_ERRORS
from app.models.job_lifecycle import LIVE
from falqon_core.contract.sources import SourceFormat
from falqon_core.records.file_check import FileReport

REMOVED_AT_ONCE = 100


def find(session: Session, project_id: str, file_id: str, *, lock: bool = False) -> File | None:
    statement = _own(project_id, [file_id])
    return session.scalars(statement.with_for_update() if lock else statement).one_or_none()


def find_by_key(session: Session, project_id: str, idempotency_key: str) -> File | None:
    return session.scalars(
        select(File).where(
            File.project_id == project_id,
            File.idempotency_key == idempotency_key,
            File.deleted_at.is_(None),
        )
    ).one_or_none()


def get(session: Session, file_id: str) -> File:
    """Return the file, even a deleted one."""
    return session.get_one(File, file_id)


def find_several(
    session: Session, project_id: str, ids: Sequence[str], *, lock: bool
) -> list[File]:
    """Find files; locked, they are neither deleted nor checked while the transaction lasts."""
    statement = _own(project_id, ids).order_by(File.id)
    # Shared, or jobs on the same file, as a sweep of hyperparameters makes them, are created one
    # after the other.
    return list(session.scalars(statement.with_for_update(read=True) if lock else statement))


def names(session: Session, project_id: str, ids: Sequence[str]) -> dict[str, str]:
    """Return the names of those files that exist."""
    mine = _own(project_id, ids).with_only_columns(File.id, File.filename)
    return dict(session.execute(mine).all())


def newest_first(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Order,
    purpose: str | None,
    idempotency_key: str | None,
    search: str = "",
) -> list[File]:
    """Return the newest first, at most `limit` and one, their reports without the errors, which are
    most of a file's row. `search`: part of name or id.
    """
    statement = (
        select(File, REPORT_WITHOUT_ERRORS)
        .options(defer(File.report))
        .where(File.project_id == project_id, File.deleted_at.is_(None))
        .limit(limit + 1)
    )
    if purpose is not None:
        statement = statement.where(File.purpose == purpose)
    if idempotency_key is not None:
        statement = statement.where(File.idempotency_key == idempotency_key)
    if search:
        columns = (File.filename, File.id)
        alike = (column.icontains(search, autoescape=True) for column in columns)
        statement = statement.where(or_(*alike))
    if order == "desc":
        statement = statement.order_by(File.id.desc())
        statement = statement.where(File.id < after) if after else statement
    else:
        statement = statement.order_by(File.id)
        statement = statement.where(File.id > after) if after else statement
    files = []
    for file, report in session.execute(statement):
        set_committed_value(file, "report", report)
        files.append(file)
    return files


def other_purposes(session: Session, project_id: str) -> list[Purpose]:
    """Return the purposes of the project's files other than training and its results."""
    probes = {
        purpose: select(File.id).where(
            File.project_id == project_id, File.purpose == purpose, File.deleted_at.is_(None)
        )
        for purpose in Purpose
        if purpose not in (Purpose.FINE_TUNE, Purpose.FINE_TUNE_RESULTS)
    }
    are_there = session.execute(select(*(probe.exists() for probe in probes.values()))).one()
    return [purpose for purpose, is_there in zip(probes, are_there, strict=True) if is_there]


def search(session: Session, project_id: str, text: str, *, limit: int) -> list[File]:
    """Find a file by its id, and others by a part of their id or name among the newest."""
    newest = (
        select(File.id, File.filename)
        .where(File.project_id == project_id, File.deleted_at.is_(None))
        .order_by(File.id.desc())
        .limit(NUM_SEARCHED)
        .subquery()
    )
    alike = select(newest.c.id).where(
        newest.c.id.icontains(text, autoescape=True)
        | newest.c.filename.icontains(text, autoescape=True)
    )
    ids = session.scalars(alike.order_by(newest.c.id.desc()).limit(limit)).all()
    return list(session.scalars(_own(project_id, [text, *ids]).order_by(File.id.desc())))


def find_user(session: Session, project_id: str, file_id: str) -> str | None:
    """Return the job or the batch that reads the file and has not ended."""
    uses = (Job.training_file_id == file_id) | (Job.validation_file_id == file_id)
    job = select(Job.id).where(Job.project_id == project_id, uses, Job.status.in_(LIVE)).limit(1)
    batch = (
        select(Batch.id)
        .where(
            Batch.project_id == project_id,
            Batch.input_file_id == file_id,
            Batch.status == OperationStatus.IN_PROGRESS,
        )
        .limit(1)
    )
    return session.scalar(job) or session.scalar(batch)


def list_expired(session: Session, *, lock: bool) -> list[File]:
    """Find some files that are expired and that neither a job nor a batch needs. No new one can
    take locked ones.
    """
    uses = (Job.training_file_id == File.id) | (Job.validation_file_id == File.id)
    of_job = select(Job.id).where(uses, Job.status.in_(LIVE)).exists()
    of_batch = (
        select(Batch.id)
        .where(Batch.input_file_id == File.id, Batch.status == OperationStatus.IN_PROGRESS)
        .exists()
    )
    statement = (
        select(File)
        .where(File.expires_at < now_plus_once(), File.deleted_at.is_(None), ~of_job, ~of_batch)
        .order_by(File.expires_at)  # ordered so that Postgres uses the index
        .limit(REMOVED_AT_ONCE)
    )
    return list(session.scalars(statement.with_for_update(skip_locked=True) if lock else statement))


def mark_deleted(session: Session, ids: Sequence[str]) -> None:
    statement = (
        update(File)
        .where(File.id.in_(ids), File.deleted_at.is_(None))
        .values(deleted_at=now_plus())
    )
    session.execute(statement, execution_options=UNSYNCED)
    for kind in (FileCheck, FileImport):
        session.execute(delete(kind).where(kind.file_id.in_(ids)), execution_options=UNSYNCED)
    _forget_statistics(session, ids)


def add_check(session: Session, file: File) -> None:
    """Have a worker check the file."""
    session.add(
        FileCheck(
            id=new_id("check-"),
            project_id=file.project_id,
            file_id=file.id,
            status=OperationStatus.IN_PROGRESS,
        )
    )


def withdraw_verdict(session: Session, file: File) -> None:
    """Reset a locked file to its uploaded state, without the counts of the old verdict."""
    file.status = FileStatus.UPLOADED
    file.status_details = None
    file.report = None
    session.flush()
    _forget_statistics(session, [file.id])


def add_import(
    session: Session,
    file: File,
    source: str,
    format: SourceFormat | None,
    mapping: dict[str, str],
    *,
    is_uploaded: bool,
) -> FileImport:
    """Have a worker convert a source into the file's JSON lines."""
    imported = FileImport(
        id=new_id("import-"),
        project_id=file.project_id,
        file_id=file.id,
        source=source,
        is_uploaded=is_uploaded,
        format=format,
        mapping=mapping,
        status=OperationStatus.IN_PROGRESS,
    )
    session.add(imported)
    return imported


def replace_import(
    session: Session, file: File, imported: FileImport, mapping: dict[str, str]
) -> FileImport:
    """Have a worker convert the source of a failed import, with another mapping."""
    session.delete(imported)
    session.flush()
    again = add_import(
        session,
        file,
        imported.source,
        imported.format,
        mapping,
        is_uploaded=imported.is_uploaded,
    )
    session.flush()
    return again


def imports_of(session: Session, file_ids: Sequence[str]) -> dict[str, FileImport]:
    """Return the import of each file that has one."""
    rows = session.scalars(select(FileImport).where(FileImport.file_id.in_(file_ids)))
    return {row.file_id: row for row in rows}


def replace_content(
    session: Session, file_id: str, storage_key: str, stored: Stored, filename: str
) -> bool:
    """Replace the uploaded content with the records that a worker wrote."""
    statement = (
        update(File)
        .where(File.id == file_id, File.deleted_at.is_(None))
        .values(
            storage_key=storage_key, bytes=stored.bytes, sha256=stored.sha256, filename=filename
        )
        .returning(File.id)
    )
    return session.scalar(statement, execution_options=UNSYNCED) is not None


def judge(
    session: Session, file_id: str, status: FileStatus, details: str, report: FileReport | None
) -> None:
    """Record the verdict of a check; only the first counts."""
    statement = update(File).where(File.id == file_id, File.status == FileStatus.UPLOADED)
    session.execute(
        statement.values(status=status, status_details=details, report=report),
        execution_options=UNSYNCED,
    )


def _forget_statistics(session: Session, ids: Sequence[str]) -> None:
    quotes = DatasetStatistics.file_id.in_(ids) | DatasetStatistics.validation_file_id.in_(ids)
    session.execute(delete(DatasetStatistics).where(quotes), execution_options=UNSYNCED)


def _own(project_id: str, ids: Sequence[str]) -> Select[File]:
    return select(File).where(
        File.id.in_(ids), File.project_id == project_id, File.deleted_at.is_(None)
    )
