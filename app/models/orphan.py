from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class Orphan(Base):
    """Object in storage that no row names: not yet, or not any more. Once due it is removed, so
    nothing is forgotten there.
    """

    __tablename__ = "orphans"

    storage_key: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(index=True)
    deleting: Mapped[bool] = mapped_column(default=False)  # being removed: no row may name it now
