from fastapi import APIRouter

from app.http.dependencies import InstallationAdmin, Reader, ServicesDep
from app.http.pagination import Page
from app.http.routes import ApiRoute
from app.prices import service
from app.prices.schemas import PriceObject, PricesRequest

router = APIRouter(prefix="/v1/prices", tags=["prices"], route_class=ApiRoute)


@router.get("")
def list_prices(services: ServicesDep, caller: Reader) -> Page[PriceObject]:
    """List the prices of a device hour, by provider, with source and date; of each device the one
    in force comes first.
    """
    return service.list_prices(services)


@router.put("")
def replace_prices(
    services: ServicesDep, caller: InstallationAdmin, body: PricesRequest
) -> Page[PriceObject]:
    """Set the overrides of this installation, at once for new estimates and running jobs. Past
    charges stay as they are.
    """
    return service.replace_prices(services, caller, body)
