"""What callers do with prices; each function is one unit of work."""

from app.auth import audit
from app.auth.caller import Caller
from app.http.pagination import Page
from app.prices import service
from app.prices.schemas import PriceObject, PricesRequest
from app.prices.service import NewPrice
from app.services import Services


def list_prices(services: Services) -> Page[PriceObject]:
    """Return all that is known, of each device the price in force first."""
    with services.database.read() as session:
        prices = service.list_prices(session, services.settings)
    return Page[PriceObject].of([PriceObject.of(price) for price in prices])


def replace_prices(services: Services, caller: Caller, request: PricesRequest) -> Page[PriceObject]:
    """Set these overrides and no others."""
    overrides = [NewPrice(**override.model_dump()) for override in request.overrides]
    with services.database.transaction() as session:
        service.replace(session, overrides)
        audit.record(session, caller, "prices.updated")
        prices = service.list_prices(session, services.settings)
    return Page[PriceObject].of([PriceObject.of(price) for price in prices])
