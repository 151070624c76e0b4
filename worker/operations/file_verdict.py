"""The end of a file's check or import: the file's state, and the jobs that wait for it."""

from sqlalchemy.orm import Session

from app.base.settings import Settings
from app.files import repository as files
from app.jobs import repository as jobs
from app.jobs.validation import finish_validation
from app.models import FileStatus, JobStatus
from falqon_core.records.file_check import FileReport
from falqon_core.records.jsonl import RecordError

SPLIT_ADVICE = "split the file, and shorten lines that hold far more than the others"


def record_verdict(
    session: Session,
    settings: Settings,
    file_id: str,
    status: FileStatus,
    details: str,
    report: FileReport | None,
) -> list[str]:
    """Write the verdict, first of all rows as a deletion does; return the jobs that may run."""
    files.judge(session, file_id, status, details, report)
    waiting = jobs.list_validating_with(session, file_id)
    statuses = {job.id: finish_validation(session, job, settings) for job in waiting}
    return [job_id for job_id, job_status in statuses.items() if job_status is JobStatus.QUEUED]


def report_of_fault(message: str, advice: str, code: str = "invalid_record") -> FileReport:
    """Return the report on a file that could not be checked."""
    error = RecordError(line=1, column=1, field="", code=code, message=message, advice=advice)
    return FileReport(num_errors=1, errors=[error])
