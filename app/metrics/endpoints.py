"""`/metrics` for Prometheus: to this machine, or to an admin of the installation."""

import ipaddress

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from app.http.dependencies import get_services
from app.http.routes import address_of, admit

# Whoever sends one of these speaks for somebody else, whom a proxy that nobody has named hides.
OF_PROXIES = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

router = APIRouter(tags=["health"], include_in_schema=False)


@router.get("/metrics")
def read_metrics(request: Request) -> Response:
    """Return what this process counts, and what the database says of the installation."""
    if not is_from_this_machine(request):
        admit(get_services(request), request).must_administer_installation()
    registry: CollectorRegistry = request.app.state.metrics
    content = generate_latest(REGISTRY) + generate_latest(registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def is_from_this_machine(request: Request) -> bool:
    """Return whether the caller connects from here, and not through a proxy that stands here."""
    if any(name in request.headers for name in OF_PROXIES):
        return False
    try:
        return ipaddress.ip_address(address_of(request)).is_loopback
    except ValueError:  # a Unix socket, behind which a proxy stands
        return False
