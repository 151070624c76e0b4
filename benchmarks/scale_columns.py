"""The columns of `benchmarks/scale_rows.py`: of each table that grows with the jobs, as SQL."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from app.jobs.metrics_chunks import pack
from app.models import (
    DEFAULT_PROJECT_ID,
    Artifact,
    Attempt,
    AuditLog,
    Base,
    Checkpoint,
    Event,
    File,
    FileStatus,
    Job,
    JobMetadata,
    JobStatus,
    Model,
    Purpose,
    Submission,
    UsageDay,
)
from app.models.event import WINDOW
from benchmarks.api import rows
from falqon_core.estimate.estimate import Actual

TEAMS, WAITING_OF_EACH = 50, 200  # projects, and the jobs of each that wait
RUNNING = 200  # jobs, and as many workers
BASE_MODEL = "falqon-tiny"
KEYS = 20
CHECKPOINTS, ARTIFACTS = 2, 3  # of each job, of each model
JOBS_OF_A_FILE, JOBS_OF_A_STUDY = 20, 10
STUDIED = 50  # one job of so many belongs to a study
RARE = 50_000  # one entry of the audit log of so many is of a kind that is looked for
RARE_KEY = "key-rare"  # that has changed little, and long ago
ACTUAL = Actual(seconds=60.0, cost=None, ratio=1.0, inside_band=True)
RESULT_FILE_ID = "'file-of-' || right(made.id, 20)"
WORKER = f"'machine-' || i % {RUNNING} / 8 || '-' || i % {RUNNING}"  # that trains a job
MODEL_ID = "'ft:falqon-tiny:project:run:' || right(made.id, 12)"
METRICS = {
    "train_loss": 1.5,
    "learning_rate": 0.0001,
    "grad_norm": 0.5,
    "tokens_per_second": 5_000.0,
    "train_mean_token_accuracy": 0.5,
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of what grows: `ended` jobs, beside those that wait and run."""

    ended: int
    events: int

    @property
    def jobs(self) -> int:
        return self.ended + TEAMS * WAITING_OF_EACH + RUNNING

    @property
    def project(self) -> str:
        """The project of a job: three of five that have ended are of the large one, and all
        projects have as many that wait.
        """
        number = (
            f"CASE WHEN i > {self.ended} THEN i % {TEAMS} WHEN i % 5 < 3 THEN 0 "
            f"ELSE 1 + i % {TEAMS - 1} END"
        )
        other = f"'proj_' || lpad(({number})::text, 3, '0')"
        return f"CASE {number} WHEN 0 THEN '{DEFAULT_PROJECT_ID}' ELSE {other} END"

    @property
    def of_each_job(self) -> int:
        """Count the events of a job: a message, and one chunk of steps."""
        return min(WINDOW, max(2, self.events // self.ended))

    @property
    def files(self) -> int:
        return self.ended // JOBS_OF_A_FILE

    @property
    def studies(self) -> int:
        return self.ended // (STUDIED * JOBS_OF_A_STUDY)


def tables_of(scale: Scale) -> Iterator[tuple[type[Base], dict[str, str], int]]:
    """Give the rows of each table: SQL by column, and how many each job has."""
    project = {"project_id": scale.project}
    yield Job, _job(scale), 1
    pair = {"name": "'experiment'", "value": f"'exp-' || i % {rows.NUM_EXPERIMENTS}"}
    yield JobMetadata, pair | project, 1
    request = {"key": "'key:' || i", "request_sha256": "md5(i::text)"}
    yield Submission, request | project, 1
    yield Attempt, _attempt(scale), 1
    yield (
        Checkpoint,
        rows.checkpoint() | {"project_id": scale.project, "bytes": "1000"},
        CHECKPOINTS,
    )
    yield Event, _event(scale), 2
    yield UsageDay, _usage(scale), 1
    yield AuditLog, _audit_log(scale), 1
    yield File, _result_file(scale), 1
    yield Model, _model(scale), 1
    yield Artifact, _artifact(), ARTIFACTS


def _job(scale: Scale) -> dict[str, str]:
    runs, waits = f"i > {scale.jobs - RUNNING}", f"i > {scale.ended}"
    failed = f"CASE WHEN i % 20 = 0 THEN '{JobStatus.FAILED}' ELSE '{JobStatus.CANCELLED}' END"
    ended = f"CASE WHEN i % 10 = 0 THEN {failed} ELSE '{JobStatus.SUCCEEDED}' END"
    return rows.ended_job() | {
        "project_id": scale.project,
        "training_file_id": f"'file-' || i % {scale.files}",
        "key_id": f"'key-' || i % {KEYS}",
        "study_id": f"CASE WHEN i % {STUDIED} = 0 "
        f"THEN 'study-' || i / {STUDIED * JOBS_OF_A_STUDY} END",
        "result_file_id": f"CASE WHEN NOT {waits} THEN {RESULT_FILE_ID} END",
        "status": f"CASE WHEN {runs} THEN '{JobStatus.RUNNING}' "
        f"WHEN {waits} THEN '{JobStatus.QUEUED}' ELSE {ended} END",
        "last_event_seq": str(scale.of_each_job),
        "lease_owner": f"CASE WHEN {runs} THEN {WORKER} END",
        "lease_expires_at": f"CASE WHEN {runs} THEN now() + interval '1 day' END",
        "finished_at": f"CASE WHEN NOT {waits} THEN made.at END",
        "fine_tuned_model_id": f"CASE WHEN NOT {waits} THEN {MODEL_ID} END",
        "actual": f"'{ACTUAL.model_dump_json(indent=1)}'::jsonb",
        "progress": """jsonb_build_object('step', i % 100, 'total_steps', 100, 'percent', i % 100,
            'epoch', 1.0, 'train_loss', 1.5, 'eta_seconds', 60.0, 'tokens_per_second', 5000.0,
            'cost', jsonb_build_object('currency', 'USD', 'usd_per_device_hour', '1',
                                       'price_source', 'table', 'accrued', (i % 977)::text,
                                       'projected', null, 'projected_low', null,
                                       'projected_high', null))""",
    }


def _attempt(scale: Scale) -> dict[str, str]:
    runs = f"i > {scale.jobs - RUNNING}"
    return rows.attempt() | {
        "worker": WORKER,
        "device": "'cpu'",
        "num_devices": "1",
        "method": "'falqon'",
        "ended_at": f"CASE WHEN NOT {runs} THEN made.at END",
        "outcome": f"CASE WHEN NOT {runs} THEN '{JobStatus.SUCCEEDED}' END",
        "relayed": "0",
    }


def _event(scale: Scale) -> dict[str, str]:
    chunk = chunk_of("", 2, scale.of_each_job)
    return {
        "seq": f"CASE WHEN n = 1 THEN 1 ELSE {chunk.seq} END",
        "attempt": "1",
        "level": "'info'",
        "type": f"CASE WHEN n = 1 THEN 'message' ELSE '{chunk.type}' END",
        "message": "CASE WHEN n = 1 THEN 'The job runs' ELSE '' END",
        "data": f"CASE WHEN n > 1 THEN '{json.dumps(chunk.data)}'::jsonb END",
        "first_seq": f"CASE WHEN n > 1 THEN {chunk.first_seq} END",
        "outline": f"CASE WHEN n > 1 THEN '{json.dumps(chunk.outline)}'::jsonb END",
    }


def chunk_of(job_id: str, first: int, last: int) -> Event:
    """Return the metrics of a job from one number to another as their relay folds them."""
    now = datetime.now(UTC)
    return pack(
        [
            Event(
                job_id=job_id,
                seq=seq,
                attempt=1,
                level="info",
                type="metrics",
                message=f"Step {seq}: training loss=1.50",
                data={"step": seq} | METRICS,
                created_at=now,
            )
            for seq in range(first, last + 1)
        ]
    )


def _model(scale: Scale) -> dict[str, str]:
    config = {"hidden_size": "64", "num_hidden_layers": "4", "vocab_size": "512"}
    pairs = ", ".join(f"'{name}', {value}" for name, value in config.items())
    return {
        "id": MODEL_ID,
        "project_id": scale.project,
        "base_model_id": f"'{BASE_MODEL}'",
        "config": f"jsonb_build_object({pairs})",
        "bytes": "1000000",
    }


def _artifact() -> dict[str, str]:
    return {
        "model_id": MODEL_ID,
        "name": "'file-' || n",
        "bytes": "1000",
        "sha256": "md5(i::text)",
        "storage_key": "'models/' || i || '/' || n",
    }


def _result_file(scale: Scale) -> dict[str, str]:
    return {
        "id": RESULT_FILE_ID,
        "project_id": scale.project,
        "filename": "'step_metrics.csv'",
        "purpose": f"'{Purpose.FINE_TUNE_RESULTS}'",
        "bytes": "1000",
        "sha256": "md5(i::text)",
        "storage_key": "'results/' || i",
        "status": f"'{FileStatus.PROCESSED}'",
    }


def _usage(scale: Scale) -> dict[str, str]:
    return {
        "day": "made.at::date",
        "project_id": scale.project,
        "key_id": f"'key-' || i % {KEYS}",
        "base_model_id": f"'{BASE_MODEL}'",
        "cost": "1234",
        "device_seconds": "60.0",
        "tokens": "100000",
    }


def _audit_log(scale: Scale) -> dict[str, str]:
    is_rare = f"i % {RARE} = 1"
    return {
        "id": "'audit_log-' || right(made.id, 32)",
        "event_type": f"CASE WHEN {is_rare} THEN 'webhook.created' ELSE 'job.created' END",
        "resource_id": "made.id",
        "project_id": scale.project,
        "key_id": f"CASE WHEN {is_rare} THEN '{RARE_KEY}' ELSE 'key-' || i % {KEYS} END",
        "request_id": "md5(i::text)",
        "address": "'10.0.0.1'",
    }
