"""Events for webhooks, and the rows to send them. No web framework here: workers end jobs too."""

import json
from datetime import datetime
from typing import Literal, get_args

from sqlalchemy.orm import Session

from app.base.database import now_plus
from app.base.ids import new_id
from app.models import DeliveryStatus, WebhookDelivery
from app.webhooks import repository

EVENT_TYPE_PREFIX = "fine_tuning.job."
BATCH_PREFIX = "batch."
MODEL_PREFIX = "model."
DEVICE_HOURS_PREFIX = "project.device_hours."
EventType = Literal[
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    # Unknown to OpenAI's client, so only sent on request.
    "fine_tuning.job.running",
    "fine_tuning.job.paused",
    "fine_tuning.job.health",
    "fine_tuning.job.evaluation.finished",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    # An unused model: a week before its end, and at its end.
    "model.expiring",
    "model.expired",
    # Outcomes of the switch of a name to the job's model.
    "fine_tuning.job.switch.canary",
    "fine_tuning.job.switch.switched",
    "fine_tuning.job.switch.kept",
    "fine_tuning.job.switch.rolled_back",
    # Device hours of a project in a month: nearly used up, and used up.
    "project.device_hours.warning",
    "project.device_hours.exhausted",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
DEFAULT_EVENT_TYPES = EVENT_TYPES[:3]


def record(session: Session, project_id: str, job_id: str, status: str) -> None:
    """Add a delivery to each endpoint that wants to know that a job has come to `status`, that its
    health has changed, or that an evaluation of it or a switch to its model has an outcome.
    """
    if EVENT_TYPE_PREFIX + status in EVENT_TYPES:
        _add(session, project_id, EVENT_TYPE_PREFIX + status, job_id)


def record_batch(session: Session, project_id: str, batch_id: str, ending: str) -> None:
    """Add a delivery to each endpoint that wants to know that a batch has ended so."""
    _add(session, project_id, BATCH_PREFIX + ending, batch_id)


def record_model(
    session: Session, project_id: str, model_id: str, change: Literal["expiring", "expired"]
) -> None:
    """Add a delivery to each endpoint that wants to know that a model comes to its end."""
    _add(session, project_id, MODEL_PREFIX + change, model_id)


def record_device_hours(session: Session, project_id: str, level: str) -> None:
    """Add a delivery to each endpoint that wants to know how much of a month's device hours the
    project has used.
    """
    _add(session, project_id, DEVICE_HOURS_PREFIX + level)


def _add(session: Session, project_id: str, event_type: str, subject_id: str = "") -> None:
    event_id = new_id("evt_")
    for endpoint in repository.list_enabled(session, project_id):
        if event_type in endpoint.event_types:
            session.add(
                WebhookDelivery(
                    id=new_id("whd_"),
                    endpoint_id=endpoint.id,
                    event_id=event_id,
                    event_type=event_type,
                    job_id=subject_id,
                    status=DeliveryStatus.PENDING,
                    due_at=now_plus(),
                )
            )
    session.flush()


def body(event_id: str, event_type: str, at: datetime, subject_id: str) -> bytes:
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(at.timestamp()),
        "type": event_type,
        "data": {"id": subject_id},
    }
    return json.dumps(event, separators=(",", ":")).encode()
