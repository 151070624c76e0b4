"""The display of a move: its plan, and its outcome."""

from collections.abc import Iterator
from decimal import Decimal

from app.client import text
from app.client.api import Json
from app.client.columns import Column
from app.client.command import Client
from app.client.move.plan import FileMove, JobMove, MovePlan
from app.client.move.request import dropped_settings


def show(client: Client, plan: MovePlan) -> None:
    if client.out.as_json:
        return
    if plan.files:
        words = (Column("name", "shortened"), Column("state", "wrapped"))
        files = ("file there", *words, "size", "file here", "sha256")
        client.out.table(files, map(_file_row, plan.files.values()))
        client.out.say("")
    if plan.jobs:
        columns = (
            "job there",
            Column("state", "wrapped"),
            "trained from",
            "here from",
            "method",
            Column("chosen again here", "wrapped"),
            "job here",
        )
        client.out.table(columns, (_job_row(plan, job) for job in plan.jobs))
        client.out.say("")
    if models := list(_model_rows(plan)):
        client.out.table(("model there", "checkpoints there", "model here"), models)
        client.out.say("")


def show_total(client: Client, plan: MovePlan) -> None:
    """Show what is still to do, and what that takes."""
    total = total_estimate(plan)
    seconds = total["seconds"]
    cost = {name: text.usd(amount) for name, amount in total["cost"].items()}
    facts = {
        "files to copy": f"{len(plan.due_files)}, {text.size(_due_bytes(plan))}",
        "jobs to submit": len(plan.due_jobs),
    }
    if plan.due_jobs:
        facts["time"] = (
            f"{text.duration(seconds['expected'])} ({text.duration(seconds['low'])} to "
            f"{text.duration(seconds['high'])}), one job after the other"
        )
        facts["cost"] = f"{cost['expected']} ({cost['low']} to {cost['high']})"
    facts["cannot be moved"] = plan.num_problems
    client.out.facts(facts)


def document(plan: MovePlan) -> Json:
    return {
        "object": "move",
        "files": [
            {
                "id": file.origin.id,
                "filename": file.origin.filename,
                "bytes": file.origin.bytes,
                "file_here": file.here and file.here["id"],
                "sha256": file.sha256 or None,
                "problem": file.problem or None,
            }
            for file in plan.files.values()
        ],
        "jobs": [
            {
                "id": job.origin.id,
                "model": job.origin.model,
                "fine_tuned_model": job.origin.fine_tuned_model,
                "status": job.origin.status,
                "hyperparameters": job.origin.settings,
                "dropped_hyperparameters": dropped_settings(job.origin, plan.keep_hyperparameters),
                "num_checkpoints": job.num_checkpoints,
                "job_here": job.here and job.here["id"],
                "status_here": job.here and job.here["status"],
                "fine_tuned_model_here": job.here and job.here["fine_tuned_model"],
                "problem": job.problem or None,
            }
            for job in plan.jobs
        ],
        "other_models": plan.other_models,
        "estimate": total_estimate(plan),
    }


def total_estimate(plan: MovePlan) -> Json:
    """Add up the jobs that are still to be submitted."""
    estimates = [job.estimate for job in plan.due_jobs if job.estimate is not None]
    names = ("low", "expected", "high")
    seconds = {name: sum(float(each["seconds"][name]) for each in estimates) for name in names}
    cost = {name: sum(Decimal(each["cost"][name]) for each in estimates) for name in names}
    return {"seconds": seconds, "cost": {name: str(amount) for name, amount in cost.items()}}


def _due_bytes(plan: MovePlan) -> int:
    return sum(file.origin.bytes for file in plan.due_files)


def _file_row(file: FileMove) -> tuple[object, ...]:
    here = file.here or {}
    state = file.problem or here.get("status") or "to copy"
    if here.get("status") == "error":
        state = f"is not valid here: {here['status_details']}"
    return (
        file.origin.id,
        file.origin.filename,
        state,
        text.size(file.origin.bytes),
        here.get("id"),
        file.sha256,
    )


def _job_row(plan: MovePlan, job: JobMove) -> tuple[object, ...]:
    dropped = dropped_settings(job.origin, plan.keep_hyperparameters)
    return (
        job.origin.id,
        _job_state(job),
        job.origin.model,
        job.model,
        job.origin.method_type,
        ", ".join(f"{name} {value}" for name, value in dropped.items()),
        (job.here or {}).get("id"),
    )


def _job_state(job: JobMove) -> str:
    if job.problem:
        return job.problem
    if job.stays:
        return f"{job.origin.status} there; stays"
    if job.here is None:
        return "to submit"
    error = job.here.get("error")
    if error:
        return f"{job.here['status']}: {error['message']}"
    return str(job.here["status"])


def _model_rows(plan: MovePlan) -> Iterator[tuple[object, ...]]:
    for job in plan.jobs:
        if job.origin.fine_tuned_model:
            here = (job.here or {}).get("fine_tuned_model")
            otherwise = "no" if job.problem else "not yet"
            yield job.origin.fine_tuned_model, job.num_checkpoints, here or otherwise
    for model in plan.other_models:
        yield model, "", "its job is not in the account's list"
