from datetime import datetime

from sqlalchemy.orm import Session

from app.auth.server_secret import server_secret
from app.base.settings import Settings
from app.models import WebhookEndpoint
from app.webhooks import events, repository, signing
from app.webhooks.posting import Undelivered, post

DISABLED_BY_USER = "requested"
DISABLED_BY_ANSWER = "gone"
ENDPOINT_DISABLED = "the endpoint was disabled"


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
    """Return those that sign, the newest first."""
    generations = [endpoint.secret_generation]
    previous_until = endpoint.previous_secret_until
    if previous_until is not None and previous_until > sent_at:
        generations.append(endpoint.secret_generation - 1)
    server = server_secret(settings)
    return [signing.derive(server, endpoint.id, generation) for generation in generations]
