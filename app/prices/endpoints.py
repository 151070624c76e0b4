from fastapi import APIRouter

from app.http.dependencies import ApiRoute, App, InstallationAdmin, Reader
from app.http.pagination import Page
from app.prices import service
from app.prices.schemas import PriceObject, PricesRequest
from app.prices.service import Wanted

router = APIRouter(prefix="/v1/prices", tags=["prices"], route_class=ApiRoute)


@router.get("")
def list_prices(app: App, caller: Reader) -> Page[PriceObject]:
    """What an hour of a device costs, by provider, with source and date; of each device the one in force comes first."""
    with app.database.read() as session:
        return Page[PriceObject].of([PriceObject.of(row) for row in service.listed(session, app.settings)])


@router.put("")
def replace_prices(app: App, caller: InstallationAdmin, body: PricesRequest) -> Page[PriceObject]:
    """Sets the overrides of this installation, at once for new estimates and running jobs. What has been charged stays as it is."""
    with app.database.transaction() as session:
        service.replace(session, [Wanted(one.device, one.usd_per_device_hour, one.source) for one in body.overrides])
        return Page[PriceObject].of([PriceObject.of(row) for row in service.listed(session, app.settings)])
