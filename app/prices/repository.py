from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.models import PriceOverride, Worker


def overrides(session: Session) -> dict[str, PriceOverride]:
    """Return the overrides in force, by device."""
    newest = select(func.max(PriceOverride.id)).group_by(PriceOverride.device)
    rows = session.scalars(
        select(PriceOverride).where(
            PriceOverride.id.in_(newest), PriceOverride.usd_per_device_hour.is_not(None)
        )
    )
    return {row.device: row for row in rows}


def devices_of_workers(session: Session) -> set[str]:
    """Return the kinds of device that workers have, or had lately."""
    return set(session.scalars(select(Worker.device).distinct()))
