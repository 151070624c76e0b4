"""A project with something of every kind in it, so that requests reach what is behind the first
look-up.
"""

from typing import Any, NamedTuple

from app.base.ids import new_id
from app.jobs import metrics
from app.jobs.events import NewEvent, append
from app.models import Checkpoint, DeliveryStatus, Project, Scope, WebhookDelivery
from falqon_core.estimate.devices import DEVICES
from tests.support.api import Tenant

NUM_DOOMED = 8  # of each kind, to be deleted or ended


class Seeds(NamedTuple):
    names: dict[str, list[str]]  # by what a parameter means
    ended_job: str


def create_seeds(tenant: Tenant, webhook_url: str) -> Seeds:
    file_id = tenant.upload()
    held_out = tenant.upload()
    broken = tenant.upload(b'{"messages": []}\n')
    ended = _ended_job(tenant)
    checkpoint_id = _checkpoint(tenant, ended)
    checkpoint = (
        tenant.client.fine_tuning.jobs.checkpoints.list(ended).data[0].fine_tuned_model_checkpoint
    )
    permissions = tenant.client.fine_tuning.checkpoints.permissions.create(
        checkpoint, project_ids=_projects(tenant, NUM_DOOMED + 1)
    ).data
    endpoint_id = tenant.client.webhooks.create(
        url=webhook_url, name="ours", event_types=["fine_tuning.job.failed"]
    ).id
    whole_upload, part_id = _whole_upload(tenant)
    names = {
        "file_id": [file_id, held_out, broken],
        "training_file": [file_id],
        "validation_file": [held_out],
        "job_id": [
            ended,
            _paused_job(tenant),
            tenant.job(training_file=file_id, validation_file=held_out).id,
        ],
        "event_id": [event.id for event in tenant.client.fine_tuning.jobs.list_events(ended).data],
        "checkpoint_id": [checkpoint_id],
        "model": [_tuned_model(tenant)],
        "base": [tenant.base_model, checkpoint],
        "artifact": ["model.safetensors", "vocab.txt"],
        "checkpoint": [checkpoint],
        "permission_id": [permissions[0].id],
        "upload_id": [_upload(tenant)],
        "whole_upload": [whole_upload],
        "part": [part_id],
        "webhook_endpoint_id": [endpoint_id],
        "delivery_id": [_delivery(tenant, endpoint_id, ended)],
        "project_id": _projects(tenant, 3),
        "key_id": [_key(tenant)],
        "study_id": [_study(tenant, file_id)],
        "url": [webhook_url],
        "device": [*DEVICES],
        "metric": [*metrics.KEYS, ",".join(metrics.KEYS)],
        "cursor": ["0", "1"],
    }
    for kind, make in MAKERS.items():
        names[kind] = [make(tenant) for _ in range(NUM_DOOMED)]
    names |= {
        "doomed_webhook_endpoint": [_endpoint(tenant, webhook_url) for _ in range(NUM_DOOMED)],
        "doomed_permission": [permission.id for permission in permissions[1:]],
        "doomed_project": _projects(tenant, NUM_DOOMED),
    }
    return Seeds(names, ended)


def _queued_job(tenant: Tenant) -> str:
    return str(tenant.job(metadata={"team": "a"}).id)


def _paused_job(tenant: Tenant) -> str:
    job_id = _queued_job(tenant)
    tenant.client.fine_tuning.jobs.pause(job_id)
    return job_id


def _study(tenant: Tenant, file_id: str) -> str:
    body = {"model": tenant.base_model, "training_file": file_id, "methods": ["falqon", "lora"]}
    study: Any = tenant.client.post("/falqon/studies", cast_to=object, body=body)
    return str(study["id"])


def _ended_job(tenant: Tenant) -> str:
    job_id = _queued_job(tenant)
    data = {"step": 1, "total_steps": 2, "train_loss": 0.5}
    with tenant.api.database.transaction() as session:
        append(
            session, job_id, [NewEvent("Step 1/2: training loss=0.50", type="metrics", data=data)]
        )
    tenant.client.fine_tuning.jobs.cancel(job_id)
    return job_id


def _checkpoint(tenant: Tenant, job_id: str) -> str:
    row = {
        "attempt": 1,
        "step": 4,
        "storage_prefix": "p",
        "manifest_sha256": "0",
        "bytes": 1,
        "metrics": {"train_loss": 0.5},
    }
    checkpoint = Checkpoint(id=new_id("ftckpt_"), job_id=job_id, **row)
    with tenant.api.database.transaction() as session:
        session.add(checkpoint)
    return checkpoint.id


def _tuned_model(tenant: Tenant) -> str:
    # Without a slash: schemathesis puts none into a path.
    model_id = f"ft:{tenant.base_model}:acme::{new_id('')}"
    tenant.add_model(model_id, project_id=tenant.project_id, base=tenant.base_model)
    tenant.store_artifacts(model_id, dict.fromkeys(("model.safetensors", "vocab.txt"), bytes(1000)))
    return model_id


def _projects(tenant: Tenant, count: int) -> list[str]:
    ids = [new_id("proj_") for _ in range(count)]
    with tenant.api.database.transaction() as session:
        session.add_all(Project(id=project_id, name="other") for project_id in ids)
    return ids


def _key(tenant: Tenant) -> str:
    return "key_" + tenant.new_key(Scope.READ).removeprefix("ft_live_").partition("_")[0]


def _upload(tenant: Tenant) -> str:
    return str(
        tenant.client.uploads.create(
            bytes=1000, filename="rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
        ).id
    )


def _whole_upload(tenant: Tenant) -> tuple[str, str]:
    """With its only part."""
    upload_id = _upload(tenant)
    return upload_id, tenant.client.uploads.parts.create(upload_id, data=bytes(1000)).id


def _endpoint(tenant: Tenant, url: str) -> str:
    return str(
        tenant.client.webhooks.create(
            url=url, name="ours", event_types=["fine_tuning.job.failed"]
        ).id
    )


def _delivery(tenant: Tenant, endpoint_id: str, job_id: str) -> str:
    delivery = WebhookDelivery(
        id=new_id("whd_"),
        endpoint_id=endpoint_id,
        event_id=new_id("evt_"),
        event_type="fine_tuning.job.failed",
        job_id=job_id,
        status=DeliveryStatus.DELIVERED,
    )
    with tenant.api.database.transaction() as session:
        session.add(delivery)
    return delivery.id


MAKERS = {
    "doomed_file": lambda tenant: tenant.upload(),
    "doomed_job": _ended_job,
    "queued_job": _queued_job,
    "paused_job": _paused_job,
    "doomed_model": _tuned_model,
    "doomed_upload": _upload,
    "doomed_key": _key,
}
