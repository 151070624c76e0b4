"""Endpoint `/metrics` for Prometheus, for an administrator of the installation and for keys of the
scope `metrics`.
"""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from app.http.dependencies import MetricsReader
from app.http.routes import ApiRoute

router = APIRouter(tags=["health"], route_class=ApiRoute, include_in_schema=False)


# Required on this machine as well: a proxy on it, which a request need not reveal, would open it to
# everyone.
@router.get("/metrics")
def read_metrics(request: Request, _caller: MetricsReader) -> Response:
    """Return the counters of this process, and those of the installation."""
    registry: CollectorRegistry = request.app.state.metrics
    content = generate_latest(REGISTRY) + generate_latest(registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
