from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import now_plus
from app.models.base import Base


class EndedSession(Base):
    """Signed-out session of the dashboard, whose cookie is no longer valid. Kept as long as a
    cookie lives.
    """

    __tablename__ = "ended_sessions"

    id: Mapped[str] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime] = mapped_column(default=now_plus(), index=True)
