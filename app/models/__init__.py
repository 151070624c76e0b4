"""Tables, one per file; this module names them all, so that importing it fills the metadata."""

from app.models.alias import Alias
from app.models.alias_day import AliasDay
from app.models.alias_switch import AliasSwitch, SwitchStatus
from app.models.api_key import ApiKey, Scope
from app.models.artifact import Artifact
from app.models.attempt import Attempt
from app.models.audit_log import AuditLog
from app.models.base import Base
from app.models.batch import Batch, BatchAnswer
from app.models.checkpoint import Checkpoint
from app.models.checkpoint_permission import CheckpointPermission
from app.models.dataset_statistics import DatasetStatistics
from app.models.ended_session import EndedSession
from app.models.engine import Engine, EngineState
from app.models.evaluation import Evaluation
from app.models.evaluation_answer import EvaluationAnswer
from app.models.event import Event
from app.models.export import Export
from app.models.file import File, FileStatus, Purpose
from app.models.file_check import FileCheck
from app.models.file_import import FileImport
from app.models.group_grant import GroupGrant
from app.models.installation import Installation
from app.models.job import Desired, Job, JobStatus
from app.models.job_metadata import JobMetadata
from app.models.model import Model
from app.models.model_import import ModelImport
from app.models.operation import OperationStatus
from app.models.orphan import Orphan
from app.models.price_override import PriceOverride
from app.models.project import DEFAULT_PROJECT_ID, Project
from app.models.question_day import QuestionDay, QuestionSource
from app.models.serving_worker import ServingWorker
from app.models.source_token import SourceToken
from app.models.stored_answer import AnswerKind, StoredAnswer
from app.models.stored_answer_metadata import StoredAnswerMetadata
from app.models.study import Study
from app.models.submission import Submission
from app.models.upload import Upload, UploadStatus
from app.models.upload_part import UploadPart
from app.models.usage_day import UsageDay
from app.models.usage_sum import UsageSum
from app.models.user import User
from app.models.webhook_delivery import DeliveryStatus, WebhookDelivery
from app.models.webhook_endpoint import WebhookEndpoint
from app.models.worker import Drain, Worker
from app.models.worker_token import WorkerToken

__all__ = [
    "DEFAULT_PROJECT_ID",
    "Alias",
    "AliasDay",
    "AliasSwitch",
    "AnswerKind",
    "ApiKey",
    "Artifact",
    "Attempt",
    "AuditLog",
    "Base",
    "Batch",
    "BatchAnswer",
    "Checkpoint",
    "CheckpointPermission",
    "DatasetStatistics",
    "DeliveryStatus",
    "Desired",
    "Drain",
    "EndedSession",
    "Engine",
    "EngineState",
    "Evaluation",
    "EvaluationAnswer",
    "Event",
    "Export",
    "File",
    "FileCheck",
    "FileImport",
    "FileStatus",
    "GroupGrant",
    "Installation",
    "Job",
    "JobMetadata",
    "JobStatus",
    "Model",
    "ModelImport",
    "OperationStatus",
    "Orphan",
    "PriceOverride",
    "Project",
    "Purpose",
    "QuestionDay",
    "QuestionSource",
    "Scope",
    "ServingWorker",
    "SourceToken",
    "StoredAnswer",
    "StoredAnswerMetadata",
    "Study",
    "Submission",
    "SwitchStatus",
    "Upload",
    "UploadPart",
    "UploadStatus",
    "UsageDay",
    "UsageSum",
    "User",
    "WebhookDelivery",
    "WebhookEndpoint",
    "Worker",
    "WorkerToken",
]
