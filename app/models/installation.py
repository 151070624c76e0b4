from datetime import date, datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt

ONLY_ID = 1


class Installation(Base):
    """Identity row by which this database and its storage know each other."""

    __tablename__ = "installation"

    number: Mapped[int] = mapped_column(primary_key=True, default=ONLY_ID)  # there is one row
    id: Mapped[str]
    created_at: Mapped[CreatedAt]  # creation time of the database
    stored: Mapped[bool] = mapped_column(default=False)  # the storage has been given the id
    generation: Mapped[int] = mapped_column(default=0)  # never behind the storage's
    collector: Mapped[str | None]  # process that searches the storage, and the end of its lease
    collecting_until: Mapped[datetime | None]
    collected_at: Mapped[datetime | None]  # the latest round of it
    surveyed_at: Mapped[datetime | None]  # latest search through the whole storage
    # First day whose usage is not summed yet.
    usage_summed_until: Mapped[date | None]
