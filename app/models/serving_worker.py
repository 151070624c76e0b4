from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class ServingWorker(Base):
    """Process that loads models. Its polls show that it is alive."""

    __tablename__ = "serving_workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]
