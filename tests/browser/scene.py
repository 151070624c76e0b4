"""A project as it looks after some days, written as a worker writes it, without a training."""

import math
import random
from typing import Any, NamedTuple

from app.base.database import now_plus
from app.base.ids import new_id
from app.jobs import claims
from app.jobs.claims import Claim, JobFailure
from app.jobs.events import NewEvent
from app.models import Checkpoint, DatasetStatistics, JobStatus, Model, OperationStatus, Worker
from app.models.job_progress import JobProgress
from falqon_core.contract import certificate as certificates
from falqon_core.contract.certificate import (
    CERTIFICATE,
    AccruedCost,
    Canary,
    Certificate,
    Check,
    Data,
    Device,
    HeldOut,
    Software,
    Training,
)
from falqon_core.contract.config import Recipe
from tests.contract.test_jobs import COST, PROGRESS
from tests.support.api import TINY_CONFIG, Tenant

STEPS = 120
EVALUATE_EVERY = 30
CERTIFIED_COST = {
    "currency": "USD",
    "accrued": "0.0125",
    "usd_per_device_hour": "0.045",
    "price_source": "a large cloud",
}


class Scene(NamedTuple):
    running: str
    succeeded: str
    failed: str
    queued: str
    file: str
    bad_file: str
    model: str
    base_model: str


def scene(tenant: Tenant) -> Scene:
    file = tenant.upload()
    failed = job(tenant, file, "legal-summaries", 40)
    finish(
        tenant,
        failed,
        JobStatus.FAILED,
        failure=JobFailure("loss_not_finite", "The loss became infinite at step 40."),
    )
    succeeded = job(tenant, file, "support-desk", STEPS)
    model_id = a_model(tenant, succeeded.job_id)
    finish(tenant, succeeded, JobStatus.SUCCEEDED, fine_tuned_model_id=model_id)
    running = job(tenant, file, "sql-writer", 80)
    with tenant.api.database.transaction() as session:
        session.add(Worker(id=new_id("worker-"), device="cpu", num_devices=2, seen_at=now_plus()))
    queued = tenant.job(training_file=file).id
    inspected(tenant, file)
    bad_file = tenant.upload(b'{"text": 7}\n')
    return Scene(
        running.job_id,
        succeeded.job_id,
        failed.job_id,
        queued,
        file,
        bad_file,
        model_id,
        tenant.base_model,
    )


def inspected(
    tenant: Tenant, file: str, text: str = "It is four.", edges: tuple[float, ...] = (10, 15, 20)
) -> None:
    """What the tokenizer of the base model would have found; `text` is the only token that is
    learned.
    """
    alike = {"records": 1, "examples": [{"line": 2, "like_line": 1, "similarity": 1.0}]}
    result = {
        "records": 12, "records_without_targets": 0, "bad_records": 0, "errors": [],
        "sequences": 12, "tokens_per_epoch": 240, "target_tokens_per_epoch": 60,
        "max_seq_length": 2048, "truncated": 1, "tokens_cut": 3, "longest": 20, "median": 18.0,
        "histogram": {"edges": edges, "counts": [3, 9]},
        "duplicates": {"exact": alike, "near": alike, "near_threshold": 0.8, "near_compared": 12},
        "preview": [
            {"line": 1, "tokens": [["user: two and two? ", False], [text, True]],
             "later_turns": [[["user: and three? ", False], [text, True]]],
             "shortened": False},
        ],
    }  # fmt: skip
    with tenant.api.database.transaction() as session:
        question = {
            "file_id": file,
            "model_id": tenant.base_model,
            "max_seq_length": 2048,
            "validation_file_id": "",
        }
        session.add(
            DatasetStatistics(
                id=new_id("stats-"),
                project_id=tenant.project_id,
                status=OperationStatus.COMPLETED,
                result=result,
                **question,
            )
        )


def job(tenant: Tenant, file: str, suffix: str, steps: int) -> Claim:
    claim = tenant.claim(tenant.job(training_file=file, suffix=suffix).id)
    start = NewEvent(
        f"Training started: {STEPS} steps over 12 records on cpu",
        data={"total_steps": STEPS, "start_step": 0},
    )
    write(
        tenant,
        claim,
        [start, *(draft for step in range(1, steps + 1) for draft in drafts(step))],
        progress(steps),
    )
    with tenant.api.database.transaction() as session:
        claims.update_attempt(
            session, claim, start_step=0, tokens=512 * steps, train_seconds=0.6 * steps
        )
        session.add(
            Checkpoint(
                id=new_id("ftckpt_"), job_id=claim.job_id, attempt=1, step=EVALUATE_EVERY,
                storage_prefix=f"p/{claim.job_id}", manifest_sha256="0" * 64, bytes=2**22,
                metrics={"valid_loss": 1.25},
            )
        )  # fmt: skip
    return claim


def write(tenant: Tenant, claim: Claim, drafts: list[NewEvent], progress: JobProgress) -> None:
    with tenant.api.database.transaction() as session:
        assert claims.append_events(
            session, claim, drafts, progress=progress, execution_seconds=progress.elapsed_seconds
        )


def finish(tenant: Tenant, claim: Claim, status: JobStatus, **values: Any) -> None:
    with tenant.api.database.transaction() as session:
        assert claims.finish(session, claim, status, NewEvent(f"The job has {status}"), **values)


def a_model(tenant: Tenant, job_id: str) -> str:
    model_id = f"ft:{tenant.base_model}:acme:support-desk:{job_id[-8:]}"
    with tenant.api.database.transaction() as session:
        session.add(
            Model(
                id=model_id,
                project_id=tenant.project_id,
                base_model_id=tenant.base_model,
                job_id=job_id,
                config=TINY_CONFIG,
                bytes=5,
            )
        )
    contents = {
        "config.json": b"bytes",
        "model.safetensors": b"bytes",
        CERTIFICATE: certificate().model_dump_json().encode(),
    }
    tenant.store_artifacts(model_id, contents)
    return model_id


def certificate(answer: str = "Anything you like.") -> Certificate:
    sha256 = "0" * 64
    return Certificate(
        checks=[
            Check(name="codes_and_scales", passed=True, detail="28 tensors, bit for bit"),
            Check(
                name="loss", passed=True, detail="1.2500 nats a token, the trainer's 1.2486",
                difference=0.0014, bound=0.05,
            ),
        ],
        held_out=HeldOut(source="validation", num_rows=4, num_tokens=305),
        canary=Canary(prompt="user: What can you do?", trainer=answer, reloaded=answer),
        base=certificates.CertifiedBase(name="base", sha256=sha256),
        data=Data(train=sha256, validation=None),
        training=Training(
            recipe=Recipe(), steps=STEPS, best_step=STEPS, num_records=12,
            trained_tokens=512 * STEPS, num_threads=2, num_processes=1,
            metrics={"train_loss": 0.6843, "valid_loss": 0.7351},
        ),
        software=Software(
            falqon="1.0", source_sha256=sha256, python="3.12", libraries={"torch": "2.13"},
        ),
        device=Device(type="cpu", name="a processor"),
        files=[],
        service=certificates.Service(
            job="ftjob-1", model="ft", cost=AccruedCost.model_validate(CERTIFIED_COST),
        ),
    )  # fmt: skip


def drafts(step: int) -> list[NewEvent]:
    """What one step tells: its numbers, and every so often an evaluation."""
    loss = 0.4 + 2.0 * math.exp(-step / 30) + random.Random(step).gauss(0, 0.05)
    events = [
        NewEvent(
            f"Step {step}/{STEPS}: training loss={loss:.2f}",
            type="metrics",
            data=metrics(step, loss),
        )
    ]
    if step % EVALUATE_EVERY == 0:
        events.append(
            NewEvent(
                f"Step {step}/{STEPS}: validation loss",
                type="metrics",
                data={"step": step, "valid_loss": loss + 0.1},
            )
        )
        events.append(sampled(step, f"It is {step}."))
    return events


def sampled(
    step: int, completion: str, prompt: str = "user: What is it?", expected: str = "It is four."
) -> NewEvent:
    samples = [{"prompt": prompt, "completion": completion, "expected": expected}]
    return NewEvent(
        f"Step {step}/{STEPS}: answers to 1 validation prompts",
        data={"step": step, "samples": samples},
    )


def metrics(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "total_steps": STEPS,
        "train_loss": loss,
        "train_mean_token_accuracy": 1 - math.exp(-step / 40),
        "learning_rate": 5e-4 * (1 - step / STEPS),
        "grad_norm": 1.0,
        "trained_tokens": 512 * step,
        "tokens_per_second": 900.0,
        "elapsed_seconds": 0.6 * step,
        "codes_changed": 0.01,
        "memory_bytes": 2**30,
        "cost_accrued": f"{0.0001 * step:.4f}",
    }


def progress(step: int) -> JobProgress:
    total_steps = max(STEPS, step)
    percent = 100 * step / total_steps
    at = {
        "step": step,
        "total_steps": total_steps,
        "percent": percent,
        "trained_tokens": 512 * step,
        "elapsed_seconds": 0.6 * step,
    }
    return JobProgress.model_validate(PROGRESS | at | {"memory_bytes": 2**30, "cost": COST})
