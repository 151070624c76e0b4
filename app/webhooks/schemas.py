"""Webhook endpoints as OpenAI's clients spell them; `enabled`, `disabled_reason` and deliveries are
ours.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, HttpUrl, StringConstraints

from app.http.pagination import Object, unix_seconds
from app.models import WebhookDelivery, WebhookEndpoint
from app.models.strict_model import StrictModel
from app.webhooks.events import DEFAULT_EVENT_TYPES, EVENT_TYPE_PREFIX, EventType

MAX_NAME_LENGTH = 128


def _each_once(types: list[EventType]) -> list[EventType]:
    return list(dict.fromkeys(types))


Name = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_LENGTH)]
EventTypes = Annotated[list[EventType], Field(min_length=1), AfterValidator(_each_once)]


class NewEndpoint(StrictModel):
    url: HttpUrl
    name: Name | None = Field(None, description="default: the host of the URL")
    event_types: EventTypes = list(DEFAULT_EVENT_TYPES)


class EndpointChanges(StrictModel):
    """Changes of an endpoint; absent or null fields stay as they are."""

    url: HttpUrl | None = None
    name: Name | None = None
    event_types: EventTypes | None = None
    enabled: bool | None = None


class Rotation(StrictModel):
    keep_old_secret_active_for_24_hours: bool = False


class TestRequest(StrictModel):
    event_type: EventType


class EndpointObject(Object):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    enabled: bool
    disabled_reason: str | None

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, **more: str) -> Self:
        return cls(
            id=endpoint.id,
            created_at=int(endpoint.created_at.timestamp()),
            updated_at=int(endpoint.updated_at.timestamp()),
            name=endpoint.name,
            url=endpoint.url,
            event_types=endpoint.event_types,
            signing_secret_hint=endpoint.secret_hint,
            enabled=endpoint.enabled,
            disabled_reason=endpoint.disabled_reason,
            **more,
        )


class EndpointWithSecret(EndpointObject):
    signing_secret: str = Field(description="shown this once")


class EndpointDeleted(Object):
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class EventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[str]


class TestResult(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class DeliveryObject(Object):
    object: Literal["webhook_endpoint.delivery"] = "webhook_endpoint.delivery"
    created_at: int
    webhook_endpoint_id: str
    event_id: str
    event_type: str
    fine_tuning_job_id: str | None = Field(
        description="null: the event is about a batch, a model or the project"
    )
    status: str
    attempts: int
    last_attempt_at: int | None
    next_attempt_at: int | None
    status_code: int | None
    error: str | None

    @classmethod
    def of(cls, delivery: WebhookDelivery) -> Self:
        return cls(
            id=delivery.id,
            created_at=int(delivery.created_at.timestamp()),
            webhook_endpoint_id=delivery.endpoint_id,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            fine_tuning_job_id=_job_of(delivery),
            status=delivery.status,
            attempts=delivery.attempts,
            last_attempt_at=unix_seconds(delivery.attempted_at),
            next_attempt_at=unix_seconds(delivery.due_at),
            status_code=delivery.status_code,
            error=delivery.error,
        )


def _job_of(delivery: WebhookDelivery) -> str | None:
    if delivery.event_type.startswith(EVENT_TYPE_PREFIX):
        return delivery.job_id
    return None
