from datetime import date
from decimal import Decimal

from sqlalchemy import BigInteger, Dialect, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from app.models.base import Base
from app.models.reported import ReportedFloat

PLACES = 10_000  # parts of a dollar, the precision of money here
MAX_DOLLARS = Decimal(10) ** 8  # per job and day; sums of millions of rows fit the column


class Dollars(TypeDecorator[Decimal]):
    """Column with a decimal in Python, a whole number of hundredths of a cent in the database,
    whose sums are exact on both.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        return int(max(-MAX_DOLLARS, min(MAX_DOLLARS, value)) * PLACES)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(int(value)).scaleb(-4)


class NanoDollars(TypeDecorator[Decimal]):
    """Column with a decimal in Python, a whole number of 1e-9 dollars in the database: the price of
    a single token is that small.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value.scaleb(9))

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(int(value)).scaleb(-9)


class UsageDay(Base):
    """Usage of a job on one UTC day, as its worker last reported, or of a batch or an evaluation
    that another key than the job's asked for. It refers to no job: its cost stays when a job is
    deleted.
    """

    __tablename__ = "usage_days"
    __table_args__ = (
        Index("ix_usage_days_project_id_day", "project_id", "day"),
        Index("ix_usage_days_day", "day"),
    )

    job_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None]  # API key that requested it; null: not recorded then
    base_model_id: Mapped[str]
    cost: Mapped[Decimal] = mapped_column(Dollars)
    device_seconds: Mapped[float] = mapped_column(ReportedFloat)
    tokens: Mapped[int] = mapped_column(BigInteger)
