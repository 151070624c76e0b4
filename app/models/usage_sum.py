from datetime import date
from decimal import Decimal

from sqlalchemy import BigInteger, Double, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base
from app.models.usage_day import Dollars


class UsageSum(Base):
    """Sums of `UsageDay` of a day that is over; `Installation.usage_summed_until` is the first day
    without.
    """

    __tablename__ = "usage_sums"
    __table_args__ = (Index("ix_usage_sums_project_id_day", "project_id", "day"),)

    day: Mapped[date] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key_id: Mapped[str] = mapped_column(primary_key=True)  # empty: not recorded
    base_model_id: Mapped[str] = mapped_column(primary_key=True)
    cost: Mapped[Decimal] = mapped_column(Dollars)
    device_seconds: Mapped[float] = mapped_column(Double)
    tokens: Mapped[int] = mapped_column(BigInteger)
    num_jobs: Mapped[int]
    num_begun: Mapped[int]  # jobs without usage on an earlier day
