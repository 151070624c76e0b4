from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt

DEFAULT_PROJECT_ID = "proj_default"


class Project(Base):
    """A tenant: every row a user can reach belongs to one."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[CreatedAt]
