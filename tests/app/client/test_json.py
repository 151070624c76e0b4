"""--json, everywhere, is what the service says and nothing else."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from app.cli import PANEL, app
from tests.app.client.conftest import Falqon
from tests.support.service import KEY, Service

NEEDS_NO_SERVICE = ("models", "fit")
MOVING = {"heartbeat_age_seconds", "age_days", "live_jobs", "storage_bytes", "device_hours"}
READS = {
    "files list --limit 3": "/files?purpose=fine-tune&limit=3",
    "files list --limit 3 --purpose all": "/files?limit=3",
    "files show FILE": "/files/FILE",
    "files report FILE": "/files/FILE/report",
    "files download FILE": "/files/FILE",
    "jobs list --limit 2 --status succeeded --model falqon-tiny": (
        "/fine_tuning/jobs?limit=2&status=succeeded&model=falqon-tiny"
    ),
    "jobs list --metadata team=json": "/fine_tuning/jobs?metadata[team]=json",
    "jobs show JOB": "/fine_tuning/jobs/JOB",
    "jobs events JOB --limit 5": "/fine_tuning/jobs/JOB/events?limit=5",
    "jobs checkpoints JOB": "/fine_tuning/jobs/JOB/checkpoints",
    "jobs metrics JOB --points 8": "/fine_tuning/jobs/JOB/metrics?points=8",
    "models list": "/models?adapters=true",
    "models show MODEL": "/models/MODEL",
    "download MODEL": "/models/MODEL/artifacts/manifest.json",
    "keys list --project proj_default": "/api_keys?project_id=proj_default",
    "projects list": "/projects",
    "projects show proj_default": "/projects/proj_default",
    "workers": "/workers",
    "prices": "/prices",
    "webhooks list": "/webhook_endpoints",
}


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    return {}


@pytest.fixture
def ended(
    names: dict[str, str], falqon: Falqon, submitted: Callable[..., str], service: Service
) -> dict[str, str]:
    """A job that has ended, and what it began with and led to; the same for all."""
    if not names:
        job_id = submitted("--metadata", "team=json")
        assert falqon("jobs", "watch", job_id).exit_code == 0
        job = service.client.fine_tuning.jobs.retrieve(job_id)
        assert job.fine_tuned_model
        names |= {"JOB": job.id, "FILE": job.training_file, "MODEL": job.fine_tuned_model}
    return names


def still(value: Any) -> Any:
    """Without what changes by itself."""
    if isinstance(value, dict):
        return {name: still(inner) for name, inner in value.items() if name not in MOVING}
    return [still(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("command", READS)
def test_json_output_equals_the_answer_of_the_service(
    falqon: Falqon, service: Service, ended: dict[str, str], command: str
) -> None:
    path = READS[command]
    for word, value in ended.items():
        command = command.replace(word, value)
        path = path.replace(word, value)
    done = falqon(*command.split(), "--json")
    assert done.exit_code == 0, done.stderr
    answer = httpx.get(f"{service.url}/v1{path}", headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert still(json.loads(done.stdout)) == still(answer.json())


def commands(group: TyperGroup, *before: str) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *before, name)
        elif isinstance(command, TyperCommand):
            yield (*before, name), command


def test_every_command_of_the_client_accepts_json() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    here = {
        "admin",
        *(
            name
            for name, command in group.commands.items()
            if getattr(command, "rich_help_panel", None) == PANEL
        ),
    }
    commands_by_name = {
        " ".join(path): command
        for path, command in commands(group)
        if path[0] not in here and path != NEEDS_NO_SERVICE
    }
    assert len(commands_by_name) > 25
    for name, command in commands_by_name.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--base-url", "--api-key"} <= options, name
