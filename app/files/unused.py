"""Unused fields and columns of a file, as a warning for users who train on it."""

from sqlalchemy.orm import Session

from app.files import repository
from app.models import File
from falqon_core.records.file_check import FileReport

MAX_NAMED = 8


def describe_unused_fields(session: Session, file: File) -> str | None:
    """Return the warning; None if every field is read, or none is known yet."""
    report = file.report or FileReport()
    names = [
        f"'{name}' in {count:,} {'record' if count == 1 else 'records'}"
        for name, count in report.ignored_fields.items()
    ]
    imported = repository.imports_of(session, [file.id]).get(file.id)
    if imported is not None:
        names += [f"the column '{name}'" for name in imported.ignored_columns]
    if not names:
        return None
    others = len(names) - MAX_NAMED
    listed = ", ".join(names[:MAX_NAMED])
    if others > 0 or report.num_other_ignored:
        listed += " and others, which the file's report names"
    return f"{file.filename}: fields that train nothing: {listed}."
