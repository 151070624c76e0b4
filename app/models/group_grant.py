from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class GroupGrant(Base):
    """Scope that the members of a group of the identity provider have in a project."""

    __tablename__ = "group_grants"
    __table_args__ = (
        Index("uq_group_grants_group_name_project_id", "group_name", "project_id", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    group_name: Mapped[str]
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    scope: Mapped[str]
    created_at: Mapped[CreatedAt]
