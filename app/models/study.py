from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, PydanticType
from app.models.study_request import StudyRequest


class Study(Base):
    """Comparison of methods on one project's data: the jobs that name it."""

    __tablename__ = "studies"
    __table_args__ = (Index("ix_studies_project_id_id", "project_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    # Stored unchanged: fields that the user did not send are absent.
    requested: Mapped[StudyRequest] = mapped_column(PydanticType(StudyRequest, exclude_unset=True))
    created_at: Mapped[CreatedAt]
