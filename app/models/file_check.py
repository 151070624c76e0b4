from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.models.operation import Operation


class FileCheck(Operation):
    """Check of an uploaded file, whose verdict stands in the file."""

    __tablename__ = "file_checks"
    noun = "file_check"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), index=True)
