from enum import StrEnum
from typing import Annotated

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, Limit, argument, command, option
from app.client.errors import Misused
from app.client.models import ServeAs

app = typer.Typer(
    no_args_is_help=True, help="Projects of a service; needs a key with the right `admin`."
)

ProjectId = Annotated[str, argument(metavar="PROJECT")]
Weight = Annotated[int | None, option(help="Share of the machines, relative to other projects.")]
RequestsPerMinute = Annotated[int | None, option(help="Requests per minute and key.")]
MaxLiveJobs = Annotated[int | None, option(help="Maximum unfinished jobs.")]
MaxStorageBytes = Annotated[int | None, option(help="Maximum bytes of files and models.")]
MaxDeviceHours = Annotated[float | None, option(help="Maximum device hours per calendar month.")]
CheckpointsKeptDays = Annotated[
    int | None, option(help="Days that checkpoints of ended jobs stay, but the best and the last.")
]
ModelsKeptDays = Annotated[int | None, option(help="Days that unused models stay.")]
MaxRunningGpus = Annotated[int | None, option(help="Maximum GPUs of running jobs.")]
GuaranteedGpus = Annotated[
    int | None, option(help="GPUs that it gets back from projects that borrow them.")
]


LIMITS = (
    "weight",
    "requests_per_minute",
    "max_live_jobs",
    "max_storage_bytes",
    "max_device_hours",
    "max_running_gpus",
    "guaranteed_gpus",
    "checkpoints_kept_days",
    "models_kept_days",
)


class Unlimited(StrEnum):
    REQUESTS_PER_MINUTE = "requests-per-minute"
    MAX_LIVE_JOBS = "max-live-jobs"
    MAX_STORAGE_BYTES = "max-storage-bytes"
    MAX_DEVICE_HOURS = "max-device-hours"
    MAX_RUNNING_GPUS = "max-running-gpus"
    GUARANTEED_GPUS = "guaranteed-gpus"
    CHECKPOINTS_KEPT_DAYS = "checkpoints-kept-days"
    MODELS_KEPT_DAYS = "models-kept-days"

    @property
    def field(self) -> str:
        return self.value.replace("-", "_")


@command(app, "create", "falqon projects create acme --max-live-jobs 5")
def create_project(
    client: Client,
    name: Annotated[str, argument()],
    weight: Weight = None,
    requests_per_minute: RequestsPerMinute = None,
    max_live_jobs: MaxLiveJobs = None,
    max_storage_bytes: MaxStorageBytes = None,
    max_device_hours: MaxDeviceHours = None,
    max_running_gpus: MaxRunningGpus = None,
    guaranteed_gpus: GuaranteedGpus = None,
    checkpoints_kept_days: CheckpointsKeptDays = None,
    models_kept_days: ModelsKeptDays = None,
) -> None:
    """Make a project; keys and data belong to one."""
    limits = _limits(
        weight,
        requests_per_minute,
        max_live_jobs,
        max_storage_bytes,
        max_device_hours,
        max_running_gpus,
        guaranteed_gpus,
        checkpoints_kept_days,
        models_kept_days,
    )
    _show(client, client.api.post("/projects", {"name": name} | limits))


@command(app, "list", "falqon projects list")
def list_projects(
    client: Client,
    limit: Limit = 20,
    after: Annotated[str | None, option(help="Start after this project.")] = None,
) -> None:
    """Show projects, newest first."""
    page = client.api.get("/projects", {"limit": limit, "after": after})
    rows = (
        (each["id"], each["name"], each["status"], text.moment(each["created_at"]))
        for each in page["data"]
    )
    client.out.page(
        page,
        ("id", Column("name", "shortened"), "status", "created"),
        rows,
        "There are no projects.",
    )


@command(app, "show", "falqon projects show PROJECT")
def show_project(client: Client, project_id: ProjectId) -> None:
    """Show one project with its limits and what it uses."""
    _show(client, client.api.get(f"/projects/{segment(project_id)}"))


@command(app, "change", "falqon projects change PROJECT --weight 2 --unlimited max-live-jobs")
def change_project(
    client: Client,
    project_id: ProjectId,
    name: Annotated[str | None, option()] = None,
    weight: Weight = None,
    requests_per_minute: RequestsPerMinute = None,
    max_live_jobs: MaxLiveJobs = None,
    max_storage_bytes: MaxStorageBytes = None,
    max_device_hours: MaxDeviceHours = None,
    max_running_gpus: MaxRunningGpus = None,
    guaranteed_gpus: GuaranteedGpus = None,
    checkpoints_kept_days: CheckpointsKeptDays = None,
    models_kept_days: ModelsKeptDays = None,
    evaluate: Annotated[
        bool | None, typer.Option(help="Evaluate each job with held-out records once it succeeds.")
    ] = None,
    serve_as: Annotated[
        ServeAs | None, typer.Option(help="How models of new jobs answer, where that is possible.")
    ] = None,
    unlimited: Annotated[list[Unlimited], option(help="Remove this limit; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Change the name or limits of a project; what is not given stays."""
    changes = _limits(
        weight,
        requests_per_minute,
        max_live_jobs,
        max_storage_bytes,
        max_device_hours,
        max_running_gpus,
        guaranteed_gpus,
        checkpoints_kept_days,
        models_kept_days,
    )
    if both := next((limit for limit in unlimited if limit.field in changes), None):
        raise Misused(f"--unlimited {both}: --{both} sets that limit; give one of them.")
    changes |= {limit.field: None for limit in unlimited}
    changes |= {} if evaluate is None else {"evaluate": evaluate}
    changes |= {} if serve_as is None else {"serve_as": serve_as.value}
    _show(
        client,
        client.api.post(
            f"/projects/{segment(project_id)}", changes | ({} if name is None else {"name": name})
        ),
    )


@command(app, "archive", "falqon projects archive PROJECT")
def archive_project(client: Client, project_id: ProjectId) -> None:
    """Close a project without running jobs: its keys open nothing any more, its data stays."""
    _show(client, client.api.post(f"/projects/{segment(project_id)}/archive"))


def _limits(*values: float | None) -> Json:
    pairs = zip(LIMITS, values, strict=True)
    return {name: value for name, value in pairs if value is not None}


def _show(client: Client, project: Json) -> None:
    usage = project.get("usage") or {}
    client.out.show(
        project,
        {
            "id": project["id"],
            "name": project["name"],
            "status": project["status"],
            "created": text.moment(project["created_at"]),
        }
        | {"evaluates jobs": {True: "yes", False: "no", None: ""}[project.get("evaluate")]}
        | {"serves models": project.get("serve_as")}
        | {name.replace("_", " "): project.get(name) for name in LIMITS}
        | {f"used: {name.replace('_', ' ')}": _plain(value) for name, value in usage.items()},
    )


def _plain(value: Json | float) -> str | float:
    """Return a number, or numbers by name in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return value
