from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt

USER_PREFIX = "user-"


class User(Base):
    """Person who signs in through the identity provider. The row stays after a removal: audit logs
    name it, and a removed person cannot sign in again.
    """

    __tablename__ = "users"
    __table_args__ = (Index("uq_users_issuer_subject", "issuer", "subject", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    issuer: Mapped[str]
    subject: Mapped[str]  # unique at the issuer, and never given to another person
    email: Mapped[str | None]  # as the provider gave it last; null: none, or not verified
    created_at: Mapped[CreatedAt]
    signed_in_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]
