"""One run of schemathesis against a live API, with the rights of one key."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from app.models import DEFAULT_PROJECT_ID, Scope
from tests.fuzz.seeds import Seeds, create_seeds
from tests.support.api import Api, Tenant


class Role(NamedTuple):
    scope: Scope
    project_id: str | None = None  # null: one of its own


ROOT = Path(__file__).resolve().parents[2]
ROLES = {
    "installation admin": Role(Scope.ADMIN, DEFAULT_PROJECT_ID),
    "admin": Role(Scope.ADMIN),
    "writer": Role(Scope.WRITE),
    "agent": Role(Scope.AGENT),
    "reader": Role(Scope.READ),
    "asker": Role(Scope.INFER),
}
# Not asked: whether every request of the right shape is taken. What does not exist, or not in that
# state, is answered with 400 here.
NOT_CHECKED = "positive_data_acceptance"

REFUSALS = [400, 401, 403, 404, 405, 413, 415, 422, 429]

KEPT = {
    "path.file_id": "file_id",
    "path.job_id": "job_id",
    "path.model": "model",
    "path.name": "artifact",
    "path.checkpoint": "checkpoint",
    "path.permission_id": "permission_id",
    "path.upload_id": "upload_id",
    "path.webhook_endpoint_id": "webhook_endpoint_id",
    "path.delivery_id": "delivery_id",
    "path.project_id": "project_id",
    "path.key_id": "key_id",
    "path.study_id": "study_id",
    "query.model": "base",
    "query.validation_file": "validation_file",
    "query.project_id": "project_id",
    "query.device": "device",
    "query.keys": "metric",
    "body.model": "base",
    "body.training_file": "training_file",
    "body.url": "url",
    "body.project_id": "project_id",
    "body.project_ids[*]": "project_id",
    "body.overrides[*].device": "device",
}
CURSORS = {
    "GET /v1/files": "file_id",
    "GET /v1/fine_tuning/jobs": "job_id",
    "GET /v1/falqon/studies": "study_id",
    "GET /v1/fine_tuning/jobs/{job_id}/events": "event_id",
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": "checkpoint_id",
    "GET /v1/fine_tuning/jobs/{job_id}/stream": "cursor",
    "GET /v1/fine_tuning/checkpoints/{checkpoint}/permissions": "permission_id",
    "GET /v1/projects": "project_id",
    "GET /v1/api_keys": "key_id",
    "GET /v1/webhook_endpoints": "webhook_endpoint_id",
    "GET /v1/webhook_endpoints/{webhook_endpoint_id}/deliveries": "delivery_id",
}
# What ends or needs an object of its own: of each operation its parameters.
OF_ITS_OWN = {
    "DELETE /v1/files/{file_id}": {"path.file_id": "doomed_file"},
    "DELETE /v1/fine_tuning/jobs/{job_id}": {"path.job_id": "doomed_job"},
    "POST /v1/fine_tuning/jobs/{job_id}/pause": {"path.job_id": "queued_job"},
    "POST /v1/fine_tuning/jobs/{job_id}/resume": {"path.job_id": "paused_job"},
    "DELETE /v1/models/{model}": {"path.model": "doomed_model"},
    "DELETE /v1/fine_tuning/checkpoints/{checkpoint}/permissions/{permission_id}": {
        "path.permission_id": "doomed_permission"
    },
    "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}": {
        "path.webhook_endpoint_id": "doomed_webhook_endpoint"
    },
    "DELETE /v1/api_keys/{key_id}": {"path.key_id": "doomed_key"},
    "POST /v1/projects/{project_id}/archive": {"path.project_id": "doomed_project"},
    "POST /v1/models/{model}/links": {"path.model": "model", "body.name": "artifact"},
    "POST /v1/uploads/{upload_id}/cancel": {"path.upload_id": "doomed_upload"},
    "POST /v1/uploads/{upload_id}/complete": {
        "path.upload_id": "whole_upload",
        "body.part_ids[*]": "part",
    },
}


class Outcome(NamedTuple):
    answers: dict[str, Counter[int]]  # of each operation, by status
    failures: list[dict[str, Any]]
    output: str

    def statuses(self) -> Counter[int]:
        return sum(self.answers.values(), Counter())


def fuzz(
    api: Api,
    role: Role,
    webhook_url: str,
    folder: Path,
    *,
    num_examples: int,
    seed: int,
    phases: str = "all",
    exclude: Sequence[str] = (),
) -> Outcome:
    owner = Tenant(api, Scope.WRITE, role.project_id)
    key = owner.new_key(role.scope)
    seeds = create_seeds(owner, webhook_url)
    config = folder / "schemathesis.toml"
    answers = folder / "answers.json"
    report = folder / "report.json"
    config.write_text(_config(seeds))
    command = [
        *(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(config),
            "run",
            f"{api.url}/openapi.json",
        ),
        *(
            "--header",
            f"Authorization: Bearer {key}",
            "--exclude-checks",
            NOT_CHECKED,
            "--continue-on-failure",
        ),
        *(
            "--suppress-health-check",
            "filter_too_much",
            "--max-examples",
            str(num_examples),
            "--seed",
            str(seed),
            "--generation-database",
            "none",
        ),
        *("--report", "json", "--report-json-path", str(report), "--no-color", "--warnings", "off"),
    ]
    if phases != "all":
        command += ["--phases", phases]
    for operation in exclude:
        command += ["--exclude-name", operation]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
        "FUZZ_ENDED_JOB": seeds.ended_job,
        "FUZZ_PROJECT": owner.project_id,
        "FUZZ_OTHER_PROJECT": seeds.names["project_id"][0],
        "FUZZ_ANSWERS": str(answers),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if not report.exists():
        raise RuntimeError(done.stdout + done.stderr)
    outcome = json.loads(report.read_text())
    counts = {
        name: Counter({int(status): n for status, n in statuses.items()})
        for name, statuses in json.loads(answers.read_text()).items()
    }
    unfinished = [] if outcome["complete"] else [{"title": outcome["stop_reason"]}]
    return Outcome(
        counts, outcome["failures"] + outcome["errors"] + unfinished, done.stdout + done.stderr
    )


def _config(seeds: Seeds) -> str:
    """In TOML, which takes JSON's strings and lists as they are."""
    lines = ["[checks.negative_data_rejection]", f"expected-statuses = {REFUSALS}"]
    for kind, names in seeds.names.items():
        lines += [f"[dictionaries.{kind}]", f"values = {json.dumps(names)}"]
    lines += ["[parameters]", *(_bound(parameter, kind, 0.8) for parameter, kind in KEPT.items())]
    for operation, kind in CURSORS.items():
        lines += _of_operation(operation, _bound("query.after", kind, 0.3))
    for operation, parameters in OF_ITS_OWN.items():
        lines += _of_operation(
            operation, *(_bound(parameter, kind, 0.8) for parameter, kind in parameters.items())
        )
    return "\n".join(lines) + "\n"


def _of_operation(operation: str, *bindings: str) -> list[str]:
    return ["[[operations]]", f'include-name = "{operation}"', "[operations.parameters]", *bindings]


def _bound(parameter: str, kind: str, probability: float) -> str:
    return f'"{parameter}" = {{ dictionary = "{kind}", probability = {probability} }}'
