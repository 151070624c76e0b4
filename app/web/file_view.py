"""What pages show of a file: what its check found, and what it is to a model. The answers are those of the API's report."""

from typing import NamedTuple

from app.auth.caller import Caller
from app.errors import ApiError
from app.files import endpoints as files
from app.files.schemas import FileObject
from app.http.dependencies import Services
from app.inspections import endpoints as inspections
from app.inspections.schemas import InspectionObject
from app.models import FileStatus
from falqon_core.records.file_check import FileReport


class FileView(NamedTuple):
    file: FileObject
    report: FileReport | None
    inspection: InspectionObject | None
    refused: str  # why it cannot be inspected

    @property
    def is_pending(self) -> bool:
        """Worth another look soon."""
        return self.file.status == FileStatus.UPLOADED or (self.inspection is not None and self.inspection.status == "in_progress")


def view(app: Services, caller: Caller, file_id: str, model: str, max_seq_length: int) -> FileView:
    """Asks for the inspection where nobody has yet. Raises `NotFound` for the file alone."""
    file = files.retrieve_file(app, caller, file_id)
    if file.report is None or file.status == FileStatus.ERROR:
        return FileView(file, FileReport.model_validate(file.report) if file.report else None, None, "")
    report = FileReport.model_validate(file.report)
    if not model:
        return FileView(file, report, None, "")
    try:
        found = inspections.retrieve_report(app, caller, file_id, model, max_seq_length, None)
    except ApiError as error:  # of the model; the file itself has been found
        return FileView(file, report, None, error.message)
    return FileView(file, report, found.inspections[0], "")
