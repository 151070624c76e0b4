"""Use cases of prices; each function is one unit of work."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.base.plain_words import in_plain_words
from app.base.settings import Settings
from app.http.pagination import Page
from app.models import PriceOverride
from app.models.strict_model import StrictModel
from app.prices import repository
from app.prices.schemas import ListedPrice, Override, PriceObject, PricesRequest, Source
from app.services import Services
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.prices import PRICES, Dollars, Price, default_price

HERE, FILE = "this installation", "price file"


class FilePrice(StrictModel):
    usd_per_device_hour: Dollars
    source: Source
    as_of: date


_file = TypeAdapter(dict[str, FilePrice])


def list_prices(services: Services) -> Page[PriceObject]:
    """Return all known prices, of each device the one in force first."""
    with services.database.read() as session:
        prices = all_prices(session, services.settings)
    return Page[PriceObject].of([PriceObject.of(price) for price in prices])


def replace_prices(services: Services, caller: Caller, request: PricesRequest) -> Page[PriceObject]:
    """Replace the overrides with these."""
    with services.database.transaction() as session:
        replace(session, request.overrides)
        audit.record(session, caller, "prices.updated")
        prices = all_prices(session, services.settings)
    return Page[PriceObject].of([PriceObject.of(price) for price in prices])


def price_of(session: Session, settings: Settings, device: str) -> Price:
    return _in_force(repository.overrides(session), file_prices(settings.prices), device)


def all_prices(session: Session, settings: Settings) -> list[ListedPrice]:
    """Return all known prices, of each device the one in force first."""
    overrides = repository.overrides(session)
    of_file = file_prices(settings.prices)
    rows = []
    of_workers = {name for name in repository.devices_of_workers(session) if find_device(name)}
    unlisted = (of_workers | overrides.keys() | of_file.keys()) - DEVICES.keys()
    for device in (*DEVICES, *sorted(unlisted)):
        chosen = _in_force(overrides, of_file, device)
        own = [of_file[device]] if device in of_file else []
        others = [price for price in (*own, *PRICES) if price.device == device and price != chosen]
        rows += [ListedPrice(chosen, True), *(ListedPrice(price, False) for price in others)]
    return rows


def replace(session: Session, prices: Sequence[Override]) -> None:
    """Replace the overrides with these; earlier ones stay in the table, for the record."""
    before = repository.overrides(session)
    for price in prices:
        usd, old = str(price.usd_per_device_hour), before.get(price.device)
        if old is None or (old.usd_per_device_hour, old.source) != (usd, price.source):
            session.add(
                PriceOverride(device=price.device, usd_per_device_hour=usd, source=price.source)
            )
    for device in sorted(before.keys() - {price.device for price in prices}):
        session.add(PriceOverride(device=device, usd_per_device_hour=None, source="withdrawn"))
    session.flush()


@cache
def file_prices(path: Path | None) -> dict[str, Price]:
    """Read the file, once per process; `ValueError` states the fault and its place."""
    if path is None:
        return {}
    try:
        prices = _file.validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"FALQON_PRICES: {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        reason = in_plain_words(fault)
        place = f"{path}: {where}" if where else path
        raise ValueError(f"FALQON_PRICES: {place}: {reason}") from None
    if unknown := sorted(device for device in prices if find_device(device) is None):
        raise ValueError(
            f"FALQON_PRICES: {path}: unknown device '{unknown[0]}'; "
            f"known devices: {', '.join(sorted(DEVICES))}"
        )
    return {
        device: Price(device=device, provider=FILE, kind="override", **price.model_dump())
        for device, price in prices.items()
    }


def _in_force(overrides: dict[str, PriceOverride], of_file: dict[str, Price], device: str) -> Price:
    if override := overrides.get(device):
        assert override.usd_per_device_hour is not None
        return Price(
            device=device,
            provider=HERE,
            kind="override",
            usd_per_device_hour=Decimal(override.usd_per_device_hour),
            as_of=override.created_at.date(),
            source=override.source,
        )
    return of_file.get(device) or default_price(device)
