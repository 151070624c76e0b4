"""Tools about jobs."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

from app.base.text import moment
from app.client import text
from app.client.agents import costs
from app.client.agents.arguments import (
    FileId,
    JobId,
    JobIds,
    MaxCost,
    ModelId,
    Settings,
    Suffix,
    WaitSeconds,
)
from app.client.agents.waiting import wait_until
from app.client.api import Api, Json, segment
from app.client.errors import Refused
from app.client.jobs.compare import comparison
from app.client.jobs.estimate import place
from app.client.jobs.watched import FINAL_STATUSES

JOBS = "/fine_tuning/jobs"
ESTIMATES = "/fine_tuning/estimates"
STOPPED = FINAL_STATUSES | {"paused"}
EVENTS_READ = 100  # of which most may be metrics of steps
EVENTS_SHOWN = 20
MAX_MODELS = 100
JOBS_SHOWN = 20


def list_models(api: Api) -> Json:
    """List the models to start from, and those that jobs made. Free."""
    models = api.get("/models")["data"]
    rows = [
        {"id": model["id"], "made_from": model.get("base_model"), "bytes": model.get("bytes")}
        for model in models[:MAX_MODELS]
    ]
    return {"cost": "free", "models": rows, "more": max(0, len(models) - MAX_MODELS)}


def estimate_job(
    api: Api,
    model: ModelId,
    training_file: FileId,
    validation_file: FileId | None = None,
    settings: Settings = {},  # noqa: B006
) -> Json:
    """Estimate the time, memory, place in the queue and cost of a job, with the worst price. Free;
    nothing is created.
    """
    estimate = api.post(ESTIMATES, _body(model, training_file, validation_file, settings))
    seconds = estimate["seconds"]
    queue = estimate.get("queue")
    return {
        "cost": "free",
        "cost_of_the_job": costs.describe_estimate(estimate, _gpu(settings)),
        "worst_price_usd": str(costs.worst_price(estimate, _gpu(settings))),
        "time": f"{text.duration(seconds['expected'])} ({text.duration(seconds['low'])} to "
        f"{text.duration(seconds['high'])})",
        "steps": estimate["steps"],
        "trained_tokens": estimate["trained_tokens"],
        "memory": text.size(estimate["memory_bytes"]),
        "fits": estimate["fits"],
        "queue": place(queue) if queue else None,
        "warnings": estimate.get("warnings") or [],
        "reason": estimate.get("reason"),
        "next": "create_job, with at least the worst price as max_cost_usd",
    }


def dry_run_job(
    api: Api,
    model: ModelId,
    training_file: FileId,
    validation_file: FileId | None = None,
    settings: Settings = {},  # noqa: B006
) -> Json:
    """Check a job and show every setting that it would have. Free; nothing is created."""
    body = _body(model, training_file, validation_file, settings)
    job = api.post(f"{JOBS}?dry_run=true", body)
    return {
        "cost": "free",
        "cost_of_the_job": costs.describe_estimate(job["estimate"]),
        "settings": job["config"],
    }


def create_job(
    api: Api,
    model: ModelId,
    training_file: FileId,
    max_cost_usd: MaxCost,
    validation_file: FileId | None = None,
    suffix: Suffix | None = None,
    settings: Settings = {},  # noqa: B006
) -> Json:
    """Train a model. COSTS MONEY: what estimate_job says, and never more than max_cost_usd, at
    which the job pauses. Nothing is created if the worst price is above that, or above what is left
    of the key's daily budget.
    """
    body = _body(model, training_file, validation_file, settings)
    estimate = api.post(ESTIMATES, body)
    price = costs.describe_estimate(estimate, _gpu(settings))
    if costs.worst_price(estimate, _gpu(settings)) > Decimal(max_cost_usd):
        raise Refused(
            f"Nothing was created: max_cost_usd is {text.usd(max_cost_usd)}, and the job's cost is "
            f"{price}.",
            "Allow the worst price, or make the job smaller: fewer num_epochs, fewer records, a "
            "smaller model.",
        )
    body["falqon"]["budget"] = {"max_cost_usd": max_cost_usd}
    if suffix:
        body["suffix"] = suffix
    job = api.post(JOBS, body, idempotency_key=str(uuid4()))
    return {
        "cost": f"{price}; it pauses at {text.usd(max_cost_usd)}",
        "job_id": job["id"],
        "status": job["status"],
        "next": "watch_job",
    }


def watch_job(api: Api, job_id: JobId, wait_seconds: WaitSeconds = 30) -> Json:
    """Follow a job: wait until its status changes, at most wait_seconds, and return its newest
    events, progress, cost, ETA and health. Free; call it again until it says that the job has
    ended.
    """
    path = f"{JOBS}/{segment(job_id)}"
    status = api.get(path)["status"]
    job = wait_until(
        lambda job: job["status"] != status or job["status"] in STOPPED,
        lambda: api.get(path, repeatable=True),
        wait_seconds,
    )
    events = api.get(f"{path}/events", {"limit": EVENTS_READ}, repeatable=True)["data"]
    messages = [event for event in events if event["type"] != "metrics"][:EVENTS_SHOWN]
    progress = job.get("progress") or {}
    eta = progress.get("eta_seconds") if job["status"] == "running" else None
    return {
        "cost": f"free to watch; the job: {costs.describe_job(job)}",
        "status": text.status(job),
        "done": text.done(job),
        "eta": None if eta is None else text.duration(eta),
        "train_loss": progress.get("train_loss"),
        "valid_loss": progress.get("valid_loss"),
        "health": text.health(job),
        "error": job.get("error"),
        "model": job["fine_tuned_model"],
        "events": [
            f"{moment(event['created_at'])}  {event['message']}" for event in reversed(messages)
        ],
        "next": _next(job),
    }


def list_jobs(api: Api) -> Json:
    """List the newest jobs, also those of others in the project. Free. Look here before you repeat
    a create_job whose answer was lost.
    """
    jobs = api.get(JOBS, {"limit": JOBS_SHOWN})["data"]
    rows = [
        {
            "job_id": job["id"],
            "status": text.status(job),
            "suffix": job["suffix"],
            "made_from": job["model"],
            "created": text.moment(job["created_at"]),
            "cost": costs.describe_job(job),
        }
        for job in jobs
    ]
    return {"cost": "free", "jobs": rows}


def compare_jobs(api: Api, job_ids: JobIds) -> Json:
    """Put two to six jobs side by side: losses, cost, time, and the settings that differ. Free."""
    jobs = [api.get(f"{JOBS}/{segment(job_id)}") for job_id in job_ids]
    rows = {str(name): list(values) for name, *values in comparison(jobs)}
    return {"cost": "free", "jobs": job_ids, "rows": rows}


def _body(
    model: str, training_file: str, validation_file: str | None, settings: dict[str, Any]
) -> Json:
    body: Json = {"model": model, "training_file": training_file, "falqon": dict(settings)}
    return body if validation_file is None else body | {"validation_file": validation_file}


def _gpu(settings: dict[str, Any]) -> str:
    return str(settings.get("gpu") or costs.ANY_DEVICE)


def _next(job: Json) -> str:
    match job["status"]:
        case "succeeded" if job.get("range_test"):
            return _after_range_test(job["range_test"])
        case "succeeded":
            return "evaluate_job, then ask_model or create_download_links"
        case "failed" | "cancelled":
            return "It has ended. Read the error and the events, and create another job."
        case "paused":
            return (
                "It waits, and costs nothing while it does. A person with a key that may write "
                f"resumes it: falqon jobs resume {job['id']} --max-cost-usd USD"
            )
    return "watch_job again"


def _after_range_test(result: Json) -> str:
    """Return the result of a range test, and the step that trains with its proposal."""
    outcome = f"No model was made: {result['message']}."
    if result["proposal"] is None:
        return f"{outcome} preview_loss_mask shows the records as the model reads them."
    settings = f"find_rate false and learning_rate {result['proposal']:g}"
    return f"{outcome} create_job, as before but with {settings} in its settings, trains one."
