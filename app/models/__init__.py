"""One table per file; this module names them all, so that importing it fills the metadata."""

from app.models.api_key import ApiKey, Scope
from app.models.artifact import Artifact
from app.models.attempt import Attempt
from app.models.base import Base
from app.models.checkpoint import Checkpoint
from app.models.event import Event
from app.models.file import File, FileStatus
from app.models.job import Desired, Job, JobStatus
from app.models.model import Model
from app.models.project import DEFAULT_PROJECT_ID, Project
from app.models.webhook_delivery import DeliveryStatus, WebhookDelivery
from app.models.webhook_endpoint import WebhookEndpoint

__all__ = [
    "DEFAULT_PROJECT_ID",
    "ApiKey",
    "Artifact",
    "Attempt",
    "Base",
    "Checkpoint",
    "DeliveryStatus",
    "Desired",
    "Event",
    "File",
    "FileStatus",
    "Job",
    "JobStatus",
    "Model",
    "Project",
    "Scope",
    "WebhookDelivery",
    "WebhookEndpoint",
]
