from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import HttpUrl
from sqlalchemy.orm import Session

from app.auth.server_secret import server_secret
from app.database import now_plus
from app.errors import IllegalState, InvalidRequest, NotFound
from app.ids import new_id
from app.models import DeliveryStatus, WebhookDelivery, WebhookEndpoint
from app.settings import Settings
from app.webhooks import addresses, events, repository, signing
from app.webhooks.posting import Undelivered, post
from app.webhooks.schemas import EndpointChanges, NewEndpoint

MAX_ENDPOINTS = 16  # of a project
OLD_SECRET_SECONDS = 24 * 3600.0
DISABLED_BY_USER = "requested"
DISABLED_BY_ANSWER = "gone"
ENDPOINT_DISABLED = "the endpoint was disabled"


def create(session: Session, project_id: str, request: NewEndpoint, settings: Settings) -> tuple[WebhookEndpoint, str]:
    """The endpoint, and its signing secret to be shown once."""
    url = _allowed(request.url, settings)
    repository.lock_project(session, project_id)
    if repository.count(session, project_id) >= MAX_ENDPOINTS:
        raise IllegalState(f"A project has at most {MAX_ENDPOINTS} webhook endpoints; delete one first.", code="too_many_webhook_endpoints")
    endpoint_id = new_id("whe_")
    secret = signing.derive(server_secret(settings), endpoint_id, 1)
    endpoint = WebhookEndpoint(
        id=endpoint_id,
        project_id=project_id,
        name=request.name or urlsplit(url).hostname or url,
        url=url,
        event_types=list(request.event_types),
        secret_hint=signing.hint(secret),
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    return endpoint, secret


def get(session: Session, project_id: str, endpoint_id: str, *, lock: bool = False) -> WebhookEndpoint:
    endpoint = repository.find(session, project_id, endpoint_id, lock=lock)
    if endpoint is None:
        raise NotFound(f"No such webhook endpoint: {endpoint_id}", param="webhook_endpoint_id")
    return endpoint


def update(session: Session, project_id: str, endpoint_id: str, changes: EndpointChanges, settings: Settings) -> WebhookEndpoint:
    endpoint = get(session, project_id, endpoint_id, lock=True)
    if changes.url is not None:
        endpoint.url = _allowed(changes.url, settings)
    if changes.name is not None:
        endpoint.name = changes.name
    if changes.event_types is not None:
        endpoint.event_types = list(changes.event_types)
    if changes.enabled is True:
        endpoint.enabled, endpoint.disabled_reason = True, None
    elif changes.enabled is False and endpoint.enabled:
        disable(session, endpoint, DISABLED_BY_USER)
    return _changed(session, endpoint)


def delete(session: Session, project_id: str, endpoint_id: str) -> None:
    """Its deliveries go with it, sent or not."""
    session.delete(get(session, project_id, endpoint_id, lock=True))


def rotate(session: Session, project_id: str, endpoint_id: str, settings: Settings, *, keep_old: bool) -> tuple[WebhookEndpoint, str]:
    endpoint = get(session, project_id, endpoint_id, lock=True)
    endpoint.secret_generation += 1
    endpoint.previous_secret_until = now_plus(OLD_SECRET_SECONDS) if keep_old else None
    secret = signing.derive(server_secret(settings), endpoint.id, endpoint.secret_generation)
    endpoint.secret_hint = signing.hint(secret)
    return _changed(session, endpoint), secret


def disable(session: Session, endpoint: WebhookEndpoint, reason: str) -> None:
    endpoint.enabled, endpoint.disabled_reason = False, reason
    repository.give_up_pending(session, endpoint.id, ENDPOINT_DISABLED)


def resend(session: Session, project_id: str, endpoint_id: str, delivery_id: str) -> WebhookDelivery:
    """A new delivery of the same event, whose id a receiver may have seen."""
    endpoint = get(session, project_id, endpoint_id, lock=True)
    before = repository.delivery(session, endpoint.id, delivery_id)
    if before is None:
        raise NotFound(f"No such delivery of this webhook endpoint: {delivery_id}", param="delivery_id")
    if not endpoint.enabled:
        raise IllegalState("The webhook endpoint is disabled; enable it first.", code="webhook_endpoint_disabled")
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
    return again


def test(endpoint: WebhookEndpoint, event_type: str, settings: Settings) -> int:
    """Send a sample now; the status that was answered. No transaction may be open: it may take as long as the time limit."""
    try:
        return send(endpoint, new_id("evt_"), event_type, "ftjob-test", datetime.now(UTC), datetime.now(UTC), settings)
    except Undelivered as error:
        raise IllegalState(f"The test did not reach the endpoint: {error}.", code="webhook_test_failed") from None


def send(
    endpoint: WebhookEndpoint, event_id: str, event_type: str, job_id: str, event_at: datetime, sent_at: datetime, settings: Settings
) -> int:
    """Raises `Undelivered`."""
    old_signs = endpoint.previous_secret_until is not None and endpoint.previous_secret_until > sent_at
    generations = [endpoint.secret_generation, endpoint.secret_generation - 1] if old_signs else [endpoint.secret_generation]
    secrets = [signing.derive(server_secret(settings), endpoint.id, generation) for generation in generations]
    if signing.hint(secrets[0]) != endpoint.secret_hint:
        raise Undelivered("the secret of this service has changed since; rotate the signing secret of the endpoint")
    content = events.body(event_id, event_type, event_at, job_id)
    signed = signing.headers(secrets, event_id, int(sent_at.timestamp()), content)
    return post(endpoint.url, content, signed | {"content-type": "application/json", "user-agent": "falqon"}, settings.webhook_networks)


def _allowed(url: HttpUrl, settings: Settings) -> str:
    try:
        addresses.target(str(url), settings.webhook_networks)
    except addresses.Refused as error:
        raise InvalidRequest(f"url: {error}.", param="url") from None
    return str(url)


def _changed(session: Session, endpoint: WebhookEndpoint) -> WebhookEndpoint:
    if session.is_modified(endpoint):
        endpoint.updated_at = now_plus()
    session.flush()
    session.refresh(endpoint)
    return endpoint
