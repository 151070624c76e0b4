from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.http.probes import HealthMonitor, Readiness

VERSION = version("falqon")

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    version: str


@router.get("/healthz")
async def healthz() -> Health:
    return Health(version=VERSION)


# From memory and without a thread: even many calls take nothing from other requests.
@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    health_monitor: HealthMonitor = request.app.state.health_monitor
    readiness = health_monitor.read()
    if readiness.status == "unavailable":
        response.status_code = 503
        response.headers["retry-after"] = "2"
    return readiness
