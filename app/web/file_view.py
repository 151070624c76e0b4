"""Views of a file for pages: the result of its check, and its statistics under a model."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.auth.caller import Caller
from app.base.errors import ApiError
from app.dataset_statistics import service as dataset_statistics
from app.dataset_statistics.schemas import InspectionObject
from app.files import service as files
from app.files.schemas import FileObject
from app.models import FileStatus
from app.services import Services
from falqon_core.records.file_check import FileReport
from falqon_core.records.openai_lines import REWRITE_RULES

# Fields that a menu offers the columns of a table for, with the names that are likely meant.
COLUMN_NAMES = {
    "prompt": ("prompt", "question", "instruction", "input", "query", "user"),
    "completion": ("completion", "answer", "response", "output", "reply", "assistant", "label"),
    "messages": ("messages", "conversation", "chat", "dialog"),
    "text": ("text", "content", "document"),
    "chosen": ("chosen", "preferred"),
    "rejected": ("rejected",),
}
MENU_FIELDS = tuple(COLUMN_NAMES)


@dataclass(frozen=True, slots=True)
class FileView:
    file: FileObject
    report: FileReport | None
    inspection: InspectionObject | None
    refused: str  # Reason that it cannot be inspected.

    @property
    def rewrites(self) -> list[tuple[str, int]]:
        """Return the rules by which records were rewritten, and how many by each."""
        rewrites = self.report.rewrites if self.report else {}
        return [(REWRITE_RULES[name], num_records) for name, num_records in rewrites.items()]

    @property
    def unknown_columns(self) -> list[str]:
        """Return the columns of a table of which it is not known what they hold."""
        source = self.file.source
        if source and source.error and source.error.code == files.UNKNOWN_COLUMNS:
            return source.ignored_columns
        return []

    @property
    def is_pending(self) -> bool:
        """Return True if the page should poll again soon."""
        return self.file.status == FileStatus.UPLOADED or (
            self.inspection is not None and self.inspection.status == "in_progress"
        )


def guess_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the likely column of each field of a menu; "" where none has a likely name."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    guesses = {
        field: next((by_name[name] for name in names if name in by_name), "")
        for field, names in COLUMN_NAMES.items()
    }
    # A table of two columns is most often a question with its answer.
    if len(columns) == 2 and guesses["prompt"] and not guesses["completion"]:
        guesses["completion"] = next(name for name in columns if name != guesses["prompt"])
    return guesses


def view_file(
    services: Services,
    caller: Caller,
    file_id: str,
    model: str,
    max_seq_length: int,
    chat_template_kwargs: str = "",
) -> FileView:
    """Request the inspection unless there is one. Raises `NotFound` for the file alone."""
    file = files.retrieve_file(services, caller, file_id)
    report = file.report
    if report is None or file.status == FileStatus.ERROR or not model:
        return FileView(file, report, None, "")
    try:
        answer = dataset_statistics.retrieve_report(
            services,
            caller,
            file_id,
            model,
            max_seq_length,
            chat_template_kwargs=chat_template_kwargs,
        )
    except ApiError as error:  # The model is missing; the file itself is there.
        return FileView(file, report, None, error.message)
    return FileView(file, report, answer.inspections[0], "")
