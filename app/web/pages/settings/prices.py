from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from app.errors import InvalidRequest
from app.http.dependencies import ServicesDep
from app.prices import actions
from app.prices.schemas import Override, PriceObject, PricesRequest
from app.prices.service import HERE as SET_HERE
from app.web.forms import notify_refusals, parse_form, redirect_to
from app.web.pages.settings.layout import HERE, settings_page
from app.web.session import notify
from app.web.visitor import CHANGES, MAX_FORM_BYTES, InstallationVisitor, PageRoute, Visitor

PRICES = f"{HERE}/prices"
Fields = Annotated[list[str], Form()]

router = APIRouter(prefix=PRICES, route_class=PageRoute)


@router.get("")
def prices_page(services: ServicesDep, request: Request, caller: Visitor) -> Response:
    prices = actions.list_prices(services).data
    rows = [(price, _others(prices, price.device)) for price in prices if price.in_force]
    return settings_page(request, "prices.html", caller, PRICES, rows=rows, set_here=SET_HERE)


@router.post("", max_body_size=MAX_FORM_BYTES, dependencies=CHANGES)
def set_prices(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    device: Fields,
    usd: Fields,
    source: Fields,
) -> Response:
    """Set all overrides there shall be, as the API's PUT does. A row without an amount is none."""
    with notify_refusals(request):
        if not len(device) == len(usd) == len(source):
            raise InvalidRequest("device, usd and source: each device needs one of each.")
        rows = [row for row in zip(device, usd, source, strict=True) if row[1].strip()]
        overrides = [_override(*row) for row in rows]
        actions.replace_prices(services, PricesRequest(overrides=overrides))
        notify(request, "The prices are set, at once for new estimates and running jobs.")
    return redirect_to(PRICES)


def _others(prices: list[PriceObject], device: str) -> list[PriceObject]:
    """Return those of one device, the lowest first."""
    others = [price for price in prices if price.device == device and not price.in_force]
    return sorted(others, key=lambda price: Decimal(price.usd_per_device_hour))


def _override(device: str, usd: str, source: str) -> Override:
    if not source.strip():
        raise InvalidRequest(
            f"{device}: say where the price comes from, "
            "such as the contract or the page it was read on."
        )
    try:
        return parse_form(
            Override, device=device, usd_per_device_hour=usd.strip(), source=source.strip()
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{device}: {error.message}") from None
