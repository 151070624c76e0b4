from decimal import Decimal
from typing import Annotated

from fastapi import Form, Request, Response

from app.auth.caller import Caller
from app.base.errors import InvalidRequest
from app.http.dependencies import ServicesDep
from app.prices import service
from app.prices.schemas import Override, PriceObject, PricesRequest
from app.prices.service import HERE as SET_HERE
from app.services import Services
from app.web.forms import EMPTY_FORM, Errors, InvalidForm, TypedForm, parse_form, redirect_to
from app.web.pages.settings.layout import SETTINGS_PATH, settings_page
from app.web.session import notify
from app.web.visitor import InstallationVisitor, PageRouter, Visitor

PRICES_PATH = f"{SETTINGS_PATH}/prices"
COLUMNS = {"usd_per_device_hour": "usd"}  # Form field of an override's field.
Fields = Annotated[list[str], Form()]

router = PageRouter(PRICES_PATH)


@router.get("")
def prices_page(services: ServicesDep, request: Request, caller: Visitor) -> Response:
    return _page(services, request, caller)


@router.change("")
def set_prices(
    services: ServicesDep,
    request: Request,
    caller: InstallationVisitor,
    device: Fields,
    usd: Fields,
    source: Fields,
) -> Response:
    """Set all overrides there shall be, as the API's PUT does. A row without an amount is none."""
    if not len(device) == len(usd) == len(source):
        raise InvalidRequest("device, usd and source: each device needs one of each.")
    rows = list(zip(device, usd, source, strict=True))
    typed = {f"usd-{name}": amount for name, amount, _ in rows}
    typed |= {f"source-{name}": origin for name, _, origin in rows}
    with TypedForm(**typed) as form:
        service.replace_prices(services, caller, PricesRequest(overrides=_overrides(rows)))
        notify(request, "Prices set for new estimates and running jobs.")
        return redirect_to(PRICES_PATH)
    return _page(services, request, caller, form)


def _page(
    services: Services, request: Request, caller: Caller, form: TypedForm = EMPTY_FORM
) -> Response:
    prices = service.list_prices(services).data
    rows = [(price, _others(prices, price.device)) for price in prices if price.in_force]
    return settings_page(
        request, "prices.html", caller, PRICES_PATH, form, rows=rows, set_here=SET_HERE
    )


def _others(prices: list[PriceObject], device: str) -> list[PriceObject]:
    """Return the other prices of one device, the lowest first."""
    others = [price for price in prices if price.device == device and not price.in_force]
    return sorted(others, key=lambda price: Decimal(price.usd_per_device_hour))


def _overrides(rows: list[tuple[str, str, str]]) -> list[Override]:
    """Read the rows that have an amount. Raises `InvalidForm` with what is wrong in all of them."""
    overrides: list[Override] = []
    errors: Errors = {}
    for device, usd, source in rows:
        if not usd.strip():
            continue
        if not source.strip():
            errors[f"source-{device}"] = (
                "Name the source of the price, such as a contract or a page."
            )
            continue
        try:
            overrides.append(
                parse_form(
                    Override, device=device, usd_per_device_hour=usd.strip(), source=source.strip()
                )
            )
        except InvalidForm as error:
            errors |= {
                f"{COLUMNS.get(name, name)}-{device}": words for name, words in error.errors.items()
            }
    if errors:
        raise InvalidForm(errors)
    return overrides
