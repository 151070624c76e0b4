from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt


class PriceOverride(Base):
    """Price of an hour of a device in this installation. Rows are only added: the newest of a
    device counts, one without a price withdraws it.
    """

    __tablename__ = "price_overrides"

    id: Mapped[int] = mapped_column(primary_key=True)
    device: Mapped[str]
    usd_per_device_hour: Mapped[str | None]  # a decimal string
    source: Mapped[str]
    created_at: Mapped[CreatedAt]
