"""Use cases of webhook endpoints; each function is one unit of work."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import HttpUrl
from sqlalchemy.orm import Session

from app.auth import audit
from app.auth.caller import Caller
from app.auth.server_secret import server_secret
from app.base.database import now_plus
from app.base.errors import IllegalState, InvalidRequest, NotFound, RateLimited
from app.base.ids import new_id
from app.base.outbound import addresses
from app.base.settings import Settings
from app.http.pagination import Page, check_cursor
from app.models import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from app.services import Services
from app.webhooks import events, repository, signing
from app.webhooks.events import EVENT_TYPE_PREFIX
from app.webhooks.posting import Undelivered, post
from app.webhooks.schemas import (
    DeliveryObject,
    EndpointChanges,
    EndpointDeleted,
    EndpointObject,
    EndpointWithSecret,
    NewEndpoint,
    Rotation,
    TestRequest,
    TestResult,
)

DISABLED_BY_USER = "requested"
DISABLED_BY_ANSWER = "gone"
ENDPOINT_DISABLED = "the endpoint was disabled"


MAX_ENDPOINTS = 16  # per project
OLD_SECRET_SECONDS = 24 * 3600.0
# A tenth of the threads that serve requests: an endpoint that does not answer holds one of them for
# up to ten seconds.
TESTS_AT_ONCE = 4
TEST_RETRY_SECONDS = "10"

_test_slots = threading.BoundedSemaphore(TESTS_AT_ONCE)  # of this process


def create_endpoint(services: Services, caller: Caller, request: NewEndpoint) -> EndpointWithSecret:
    """Make an endpoint; the answer holds its signing secret, to be shown once."""
    url = _check_url(request.url, services.settings)
    endpoint_id = new_id("whe_")
    secret = signing.derive(server_secret(services.settings), endpoint_id, 1)
    endpoint = WebhookEndpoint(
        id=endpoint_id,
        project_id=caller.project_id,
        name=request.name or urlsplit(url).hostname or url,
        url=url,
        event_types=list(request.event_types),
        secret_hint=signing.hint(secret),
    )
    with services.database.transaction() as session:
        repository.lock_project(session, caller.project_id)
        if repository.count(session, caller.project_id) >= MAX_ENDPOINTS:
            raise IllegalState(
                f"A project has at most {MAX_ENDPOINTS} webhook endpoints; delete one first.",
                code="too_many_webhook_endpoints",
            )
        session.add(endpoint)
        session.flush()
        session.refresh(endpoint)
        audit.record(session, caller, "webhook.created", endpoint_id)
    return EndpointWithSecret.of(endpoint, signing_secret=secret)


def list_endpoints(
    services: Services, caller: Caller, *, after: str | None = None, limit: int
) -> Page[EndpointObject]:
    """Return the newest first."""
    check_cursor(after, "whe_", "a webhook endpoint")
    with services.database.read() as session:
        endpoints = repository.newest_first(session, caller.project_id, after=after, limit=limit)
    return Page[EndpointObject].of([EndpointObject.of(endpoint) for endpoint in endpoints], limit)


def retrieve_endpoint(services: Services, caller: Caller, endpoint_id: str) -> EndpointObject:
    with services.database.read() as session:
        return EndpointObject.of(_get(session, caller, endpoint_id))


def update_endpoint(
    services: Services, caller: Caller, endpoint_id: str, changes: EndpointChanges
) -> EndpointObject:
    """Change an endpoint: disabling ends what is still to be sent; enabling begins with the next
    event.
    """
    with services.database.transaction() as session:
        endpoint = _get(session, caller, endpoint_id, lock=True)
        if changes.url is not None:
            endpoint.url = _check_url(changes.url, services.settings)
        if changes.name is not None:
            endpoint.name = changes.name
        if changes.event_types is not None:
            endpoint.event_types = list(changes.event_types)
        if session.is_modified(endpoint):
            audit.record(session, caller, "webhook.updated", endpoint_id)
        if changes.enabled is True and not endpoint.enabled:
            endpoint.enabled = True
            endpoint.disabled_reason = None
            audit.record(session, caller, "webhook.enabled", endpoint_id)
        elif changes.enabled is False and endpoint.enabled:
            disable(session, endpoint, DISABLED_BY_USER)
            audit.record(session, caller, "webhook.disabled", endpoint_id)
        return EndpointObject.of(_flush(session, endpoint))


def delete_endpoint(services: Services, caller: Caller, endpoint_id: str) -> EndpointDeleted:
    """Delete an endpoint, and its deliveries with it, sent or not."""
    with services.database.transaction() as session:
        session.delete(_get(session, caller, endpoint_id, lock=True))
        audit.record(session, caller, "webhook.deleted", endpoint_id)
    return EndpointDeleted(id=endpoint_id)


def rotate_secret(
    services: Services, caller: Caller, endpoint_id: str, rotation: Rotation
) -> EndpointWithSecret:
    keep_old = rotation.keep_old_secret_active_for_24_hours
    with services.database.transaction() as session:
        endpoint = _get(session, caller, endpoint_id, lock=True)
        endpoint.secret_generation += 1
        endpoint.previous_secret_until = now_plus(OLD_SECRET_SECONDS) if keep_old else None
        secret = signing.derive(
            server_secret(services.settings), endpoint.id, endpoint.secret_generation
        )
        endpoint.secret_hint = signing.hint(secret)
        _flush(session, endpoint)
        audit.record(session, caller, "webhook.rotated", endpoint_id)
    return EndpointWithSecret.of(endpoint, signing_secret=secret)


def test_endpoint(
    services: Services, caller: Caller, endpoint_id: str, request: TestRequest
) -> TestResult:
    """Send a sample now. No transaction is open: it may take as long as the time limit. Raises
    `RateLimited` while too many others wait for their endpoints.
    """
    with services.database.read() as session:
        endpoint = _get(session, caller, endpoint_id)
    moment = datetime.now(UTC)
    try:
        with _test_slot():
            status_code = send(
                endpoint,
                new_id("evt_"),
                request.event_type,
                "ftjob-test" if request.event_type.startswith(EVENT_TYPE_PREFIX) else "",
                moment,
                moment,
                services.settings,
            )
    except Undelivered as error:
        raise IllegalState(
            f"The test did not reach the endpoint: {error}.", code="webhook_test_failed"
        ) from None
    return TestResult(
        webhook_endpoint_id=endpoint.id, event_type=request.event_type, status_code=status_code
    )


@contextmanager
def _test_slot() -> Iterator[None]:
    if not _test_slots.acquire(blocking=False):
        raise RateLimited(
            f"{TESTS_AT_ONCE} tests of webhook endpoints wait for an answer, the maximum; try "
            "again when one has ended.",
            code="too_many_webhook_tests",
            headers={"retry-after": TEST_RETRY_SECONDS},
        )
    try:
        yield
    finally:
        _test_slots.release()


def list_deliveries(
    services: Services, caller: Caller, endpoint_id: str, *, after: str | None = None, limit: int
) -> Page[DeliveryObject]:
    """Return the newest first."""
    check_cursor(after, "whd_", "a delivery")
    with services.database.read() as session:
        endpoint = _get(session, caller, endpoint_id)
        deliveries = repository.deliveries(session, endpoint.id, after=after, limit=limit)
    return Page[DeliveryObject].of([DeliveryObject.of(delivery) for delivery in deliveries], limit)


def resend_delivery(
    services: Services, caller: Caller, endpoint_id: str, delivery_id: str
) -> DeliveryObject:
    """Add a delivery of the same event, whose id a receiver may have seen."""
    with services.database.transaction() as session:
        endpoint = _get(session, caller, endpoint_id, lock=True)
        before = repository.delivery(session, endpoint.id, delivery_id)
        if before is None:
            raise NotFound(
                f"No such delivery of this webhook endpoint: {delivery_id}", param="delivery_id"
            )
        if not endpoint.enabled:
            raise IllegalState(
                "The webhook endpoint is disabled; enable it first.",
                code="webhook_endpoint_disabled",
            )
        again = WebhookDelivery(
            id=new_id("whd_"),
            endpoint_id=endpoint.id,
            event_id=before.event_id,
            event_type=before.event_type,
            event_at=before.event_at,
            job_id=before.job_id,
            status=DeliveryStatus.PENDING,
            due_at=now_plus(),
        )
        session.add(again)
        session.flush()
        session.refresh(again)
        audit.record(session, caller, "webhook_delivery.resent", delivery_id)
        return DeliveryObject.of(again)


def _get(
    session: Session, caller: Caller, endpoint_id: str, *, lock: bool = False
) -> WebhookEndpoint:
    endpoint = repository.find(session, caller.project_id, endpoint_id, lock=lock)
    if endpoint is None:
        raise NotFound(f"No such webhook endpoint: {endpoint_id}", param="webhook_endpoint_id")
    return endpoint


def _check_url(url: HttpUrl, settings: Settings) -> str:
    try:
        addresses.parse_target(str(url), settings.webhook_networks)
    except addresses.AddressRefused as error:
        raise InvalidRequest(f"url: {error}.", param="url") from None
    return str(url)


def _flush(session: Session, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    if session.is_modified(endpoint):
        endpoint.updated_at = now_plus()
    session.flush()
    session.refresh(endpoint)
    return endpoint


def disable(session: Session, endpoint: WebhookEndpoint, reason: str) -> None:
    endpoint.enabled = False
    endpoint.disabled_reason = reason
    repository.give_up_pending(session, endpoint.id, ENDPOINT_DISABLED)


def send(
    endpoint: WebhookEndpoint,
    event_id: str,
    event_type: str,
    job_id: str,
    event_at: datetime,
    sent_at: datetime,
    settings: Settings,
) -> int:
    """Send an event and return the status that was answered; raise `Undelivered` without one.
    Without a job it is about the project.
    """
    secrets = _secrets_of(endpoint, sent_at, settings)
    if signing.hint(secrets[0]) != endpoint.secret_hint:
        raise Undelivered(
            "the secret of this service has changed since; "
            "rotate the signing secret of the endpoint"
        )
    content = events.body(event_id, event_type, event_at, job_id or endpoint.project_id)
    signed = signing.headers(secrets, event_id, int(sent_at.timestamp()), content)
    return post(
        endpoint.url,
        content,
        signed | {"content-type": "application/json", "user-agent": "falqon"},
        settings.webhook_networks,
    )


def _secrets_of(endpoint: WebhookEndpoint, sent_at: datetime, settings: Settings) -> list[str]:
    """Return the secrets that sign, the newest first."""
    generations = [endpoint.secret_generation]
    previous_until = endpoint.previous_secret_until
    if previous_until is not None and previous_until > sent_at:
        generations.append(endpoint.secret_generation - 1)
    server = server_secret(settings)
    return [signing.derive(server, endpoint.id, generation) for generation in generations]
