"""The check of an uploaded file, and what follows for the jobs that wait for it. Free of the web framework: a worker runs it."""

from app.database import Database
from app.files import repository
from app.files.check_process import check_records
from app.jobs import repository as jobs
from app.jobs.validation import finish_validation
from app.models import File, FileStatus, JobStatus
from app.settings import Settings
from app.storage import Storage

BYTES_MISSING = "its bytes are not in the storage; whoever runs the service has to see to it that API and workers share one"


def check(database: Database, storage: Storage, file_id: str, settings: Settings) -> list[str]:
    """Judge the file, then end the validation of its jobs; return the ids of those that may run now. Idempotent."""
    with database.read() as session:
        file = session.get(File, file_id)
    if file is None:
        return []
    if file.status == FileStatus.UPLOADED:
        report = check_records(storage.chunks(file.storage_key), file.bytes)
        verdict = FileStatus.PROCESSED if report.ok else FileStatus.ERROR
    with database.transaction() as session:
        if file.status == FileStatus.UPLOADED:
            repository.judge(session, file_id, verdict, report.summary(), report.model_dump(mode="json"))
        waiting = jobs.validating_with(session, file_id)
        return [job.id for job in waiting if finish_validation(session, job, settings) is JobStatus.QUEUED]


def judge_missing(database: Database, file_id: str, settings: Settings) -> None:
    """Record that the storage does not hold the file, which fails the jobs that wait for it."""
    with database.transaction() as session:
        repository.judge(session, file_id, FileStatus.ERROR, BYTES_MISSING, None)
        for job in jobs.validating_with(session, file_id):
            finish_validation(session, job, settings)
