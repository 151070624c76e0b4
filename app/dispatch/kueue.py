"""Starts as Jobs of Kubernetes that are suspended until Kueue admits them."""

import re
from copy import deepcopy
from decimal import Decimal
from http import HTTPStatus

from app.dispatch.kubernetes import Api, Json, Refused
from app.dispatch.starts import SchedulerUnavailable, Start, StartRefused, WaitingJob, job_of

BATCH = "/apis/batch/v1"
CORE = "/api/v1"
LABEL = "app.kubernetes.io/managed-by"
MANAGER = "falqon-dispatch"
JOB_LABEL = "falqon/job"
DEVICE_LABEL = "falqon/device"  # Of nodes, for jobs that wait for one kind of card.
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
GPU = "nvidia.com/gpu"
KEPT_SECONDS = 3600  # A Job that has ended, for `kubectl logs`.
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]*)")
_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}


class Kueue:
    """`queue` may hold `{project}`. `template`: a PodTemplate of the namespace, whose resources are
    those of one card.
    """

    def __init__(self, api: Api, queue: str, priority_class: str, template: str) -> None:
        self._api = api
        self._queue = queue
        self._priority_class = priority_class
        self._template_name = template
        self._template: Json | None = None
        self._preconditions: dict[str, dict[str, str]] = {}

    def list(self) -> list[Start]:
        self._template = None  # Read again where something is to be submitted.
        try:
            found = list(self._api.list(BATCH, "jobs", f"{LABEL}={MANAGER}"))
        except Refused as error:
            raise SchedulerUnavailable(str(error)) from None
        found.sort(key=lambda each: str(each["metadata"].get("creationTimestamp", "")))
        self._preconditions = {
            each["metadata"]["name"]: {
                key: each["metadata"][key] for key in ("uid", "resourceVersion")
            }
            for each in found
        }
        return [start for each in found if (start := _start_of(each)) is not None]

    def submit(self, job: WaitingJob) -> None:
        template = self._read_template()
        try:
            self._api.create(BATCH, "jobs", self._describe(job, template))
        except Refused as error:
            if error.status != HTTPStatus.CONFLICT:  # One of this name is there, or being deleted.
                raise StartRefused(str(error)) from None

    def withdraw(self, start: Start) -> None:
        """Delete it, unless anything of it has changed since it was listed."""
        try:
            self._api.delete(BATCH, "jobs", start.name, self._preconditions[start.name])
        except Refused as error:
            if error.status not in _GONE:
                raise SchedulerUnavailable(str(error)) from None

    def _read_template(self) -> Json:
        if self._template is None:
            try:
                found = self._api.get(CORE, "podtemplates", self._template_name)
            except Refused as error:
                raise SchedulerUnavailable(str(error)) from None
            template: Json = found["template"]
            self._template = template
        return self._template

    def _describe(self, job: WaitingJob, template: Json) -> Json:
        labels = {
            LABEL: MANAGER,
            JOB_LABEL: job.id,
            QUEUE_LABEL: job.fill(self._queue),
        }
        if self._priority_class:
            labels[PRIORITY_LABEL] = self._priority_class
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job.name, "labels": labels},
            "spec": {
                "suspend": True,
                "parallelism": 1,
                "completions": 1,
                "backoffLimit": 0,  # The service requeues a job, and it is handed over again.
                "ttlSecondsAfterFinished": KEPT_SECONDS,
                "template": _pod_for(job, template),
            },
        }


def _pod_for(job: WaitingJob, template: Json) -> Json:
    """Return the pod of the template with the id of the job and the resources of its cards."""
    described = deepcopy(template.get("metadata") or {})
    metadata = {key: described[key] for key in ("labels", "annotations") if key in described}
    spec = deepcopy(template["spec"])
    spec["restartPolicy"] = "Never"
    if job.device is not None and job.has_gpus:
        spec["nodeSelector"] = spec.get("nodeSelector", {}) | {DEVICE_LABEL: job.device}
    worker = spec["containers"][0]
    worker["args"] = [*worker.get("args", []), "--job", job.id]
    resources = worker.setdefault("resources", {})
    for kind in ("requests", "limits"):
        amounts = {
            name: _times(amount, job.num_gpus)
            for name, amount in (resources.get(kind) or {}).items()
            if name != GPU
        }
        resources[kind] = amounts
    if job.has_gpus:
        resources["limits"][GPU] = str(job.num_gpus)
    return {"metadata": metadata, "spec": spec}


def _times(quantity: object, factor: int) -> str:
    """Multiply a quantity such as 64Gi; leave one that is written in another way."""
    match = _QUANTITY.fullmatch(str(quantity))
    return f"{Decimal(match[1]) * factor}{match[2]}" if match else str(quantity)


def _start_of(described: Json) -> Start | None:
    metadata, spec, status = (described.get(key) or {} for key in ("metadata", "spec", "status"))
    name = metadata["name"]
    job_id = job_of(name)
    if job_id is None:
        return None
    has_ended = metadata.get("deletionTimestamp") is not None or any(
        condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
        for condition in status.get("conditions") or []
    )
    return Start(name, job_id, name, has_begun=not spec.get("suspend"), has_ended=has_ended)
