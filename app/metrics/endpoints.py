"""`/metrics` for Prometheus: to an admin of the installation."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from app.http.dependencies import InstallationAdmin
from app.http.routes import ApiRoute

router = APIRouter(tags=["health"], route_class=ApiRoute, include_in_schema=False)


# Also to this machine: a proxy on it, of which a request need not tell, would open it to everyone.
@router.get("/metrics")
def read_metrics(request: Request, _caller: InstallationAdmin) -> Response:
    """Return what this process counts, and what the database says of the installation."""
    registry: CollectorRegistry = request.app.state.metrics
    content = generate_latest(REGISTRY) + generate_latest(registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
