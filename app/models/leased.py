from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base


class Leased(Base):
    """A row that one worker at a time holds, until its lease ends or is released.
    `app.operations.leases` has the statements.
    """

    __abstract__ = True

    attempt: Mapped[int] = mapped_column(default=0)  # the newest one's number fences its writes
    lease_expires_at: Mapped[datetime | None]
