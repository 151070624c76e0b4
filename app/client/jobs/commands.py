"""`falqon jobs`: what can be asked about jobs, and the group that the other commands join."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated

import typer

from app.base.text import moment as to_second
from app.client import text
from app.client.api import Json, segment
from app.client.columns import Cell, Column
from app.client.command import Client, JobId, Limit, command, option
from app.client.jobs import actions, compare, create, fields, find_rate, logs, metrics, watch
from app.client.jobs.estimate import place
from app.client.jobs.range_test import next_command
from app.client.jobs.request import parse_metadata

app = typer.Typer(no_args_is_help=True, help="Fine-tuning jobs.")
for part in (create, find_rate, fields, watch, logs, actions, metrics, compare):
    app.add_typer(part.app)

After = Annotated[str | None, option(help="Start after this one.")]


@command(app, "list", "falqon jobs list --status running --metadata team=red")
def list_jobs(
    client: Client,
    status: Annotated[
        str | None, option(help="Filter by status: queued, running, paused, …")
    ] = None,
    model: Annotated[str | None, option(help="Filter by base model.")] = None,
    metadata: Annotated[list[str], option(help="Filter by key=value; may be repeated.")] = [],  # noqa: B006
    limit: Limit = 20,
    after: After = None,
) -> None:
    """Show jobs, newest first."""
    query = {"status": status, "model": model, "limit": limit, "after": after}
    query |= {f"metadata[{key}]": value for key, value in parse_metadata(metadata).items()}
    page = client.api.get("/fine_tuning/jobs", query)
    client.out.page(
        page,
        (
            *("id", "status", "done"),
            Column("suffix", "shortened"),
            *("created", "loss", "cost"),
            *(Column(name, "shortened") for name in ("model", "against base", "why")),
        ),
        (_row(job) for job in page["data"]),
        "There are no such jobs; `falqon jobs create` makes one.",
    )


@command(app, "show", "falqon jobs show JOB")
def show_job(client: Client, job_id: JobId) -> None:
    """Show one job, with what it has learned and what to do next."""
    job = client.api.get(f"/fine_tuning/jobs/{segment(job_id)}")
    client.out.show(job, partial(_show, client, job))


@command(app, "events", "falqon jobs events JOB --limit 50")
def list_events(client: Client, job_id: JobId, limit: Limit = 20, after: After = None) -> None:
    """Show what happened to a job, newest first."""
    page = client.api.get(
        f"/fine_tuning/jobs/{segment(job_id)}/events", {"limit": limit, "after": after}
    )
    rows = (
        (to_second(event["created_at"]), event["level"], event["message"]) for event in page["data"]
    )
    client.out.page(page, ("when", "level", Column("what", "wrapped")), rows, "Nothing yet.")


@command(app, "checkpoints", "falqon jobs checkpoints JOB")
def list_checkpoints(client: Client, job_id: JobId, limit: Limit = 10, after: After = None) -> None:
    """Show the checkpoints that are kept of a job, newest first."""
    page = client.api.get(
        f"/fine_tuning/jobs/{segment(job_id)}/checkpoints", {"limit": limit, "after": after}
    )
    rows = (
        (
            each["id"],
            each["step_number"],
            text.loss(each["metrics"].get("train_loss")),
            text.loss(each["metrics"].get("valid_loss")),
            each["fine_tuned_model_checkpoint"],
        )
        for each in page["data"]
    )
    client.out.page(
        page, ("id", "step", "loss", "valid loss", "model"), rows, "There are no checkpoints."
    )


def _show(client: Client, job: Json) -> None:
    evaluations = []
    if job["status"] == "succeeded" and not job.get("range_test"):
        path = f"/fine_tuning/jobs/{segment(job['id'])}/evaluations"
        evaluations = client.api.get(path, {"limit": 1})["data"]
    facts = dict(_facts(job))
    # What people ask first: how it is, what it has learned, and whether that is better.
    first = {name: facts.pop(name) for name in ("id", "status", "loss")}
    client.out.facts(first | {"better than its base": _judgement(evaluations)} | facts)
    if next_command := _next_command(job, evaluations):
        client.out.say(f"Next: {next_command}", "dim")


def _judgement(evaluations: list[Json]) -> str:
    if not evaluations:
        return ""
    newest = evaluations[0]
    if newest["status"] == "in_progress":
        return f"{newest['num_answers']:,} of {newest['num_questions'] or '?'} answers"
    return str(newest["summary"] or newest["error"]["message"])


def _next_command(job: Json, evaluations: list[Json]) -> str:
    match job["status"]:
        case "succeeded" if job.get("range_test"):
            return next_command(job)
        case "succeeded" if not evaluations:
            return f"falqon evaluate {job['id']}"
        case "succeeded":
            return f"falqon chat {job['fine_tuned_model']}"
        case "failed":
            return f"falqon jobs logs {job['id']}"
        case "paused" if (job["paused_reason"] or "").startswith("budget: "):
            cap = job["paused_reason"].split()[1].replace("_", "-")
            return f"falqon jobs resume {job['id']} --{cap} MORE"
        case "paused":
            return f"falqon jobs resume {job['id']}"
        case "cancelled":
            return f"falqon jobs clone {job['id']}"
    return f"falqon jobs watch {job['id']}"


def _row(job: Json) -> tuple[object, ...]:
    progress = job.get("progress") or {}
    loss = progress.get("valid_loss", progress.get("train_loss"))
    done, cost = text.done(job), text.cost_so_far(job)
    return (
        text.short_id(job["id"]),
        text.state(text.status(job)),
        Cell(done, done.partition(",")[0]),
        job.get("suffix"),
        text.age(job["created_at"]),
        text.loss(loss),
        Cell(cost, cost.partition(" of ")[0]),
        job["model"],
        text.verdict(job),
        (job.get("error") or {}).get("message"),
    )


def _facts(job: Json) -> Iterator[tuple[str, object]]:
    error = job.get("error")
    progress = job.get("progress") or {}
    queue = job.get("queue")
    actual = job.get("actual")
    yield "id", job["id"]
    yield (
        "status",
        text.status(job) + (f" ({job['paused_reason']})" if job.get("paused_reason") else ""),
    )
    yield "health", ". ".join(text.health(job))
    yield "range test", (job.get("range_test") or {}).get("message", "")
    yield "error", error and f"{error['message']} ({error['code']})"
    yield "loss", _losses(progress)
    yield "model", job["model"]
    yield "made", job["fine_tuned_model"]
    yield "suffix", job.get("suffix")
    yield "training file", job["training_file"]
    yield "validation file", job["validation_file"]
    yield "created", text.moment(job["created_at"])
    yield "priority", job.get("priority") or ""
    yield "device", job["gpu"] if job.get("gpu") not in (None, "any") else ""
    yield "place in the queue", place(queue) if queue else ""
    yield "done", text.done(job)
    yield (
        "time left",
        text.duration(progress["eta_seconds"])
        if job["status"] == "running" and progress.get("eta_seconds") is not None
        else "",
    )
    yield "finished", text.moment(job["finished_at"])
    yield "model of step", progress.get("model_step")
    for name, of in text.LOSSES.items():
        yield of, text.loss(progress.get(name))
    yield (
        "trained tokens",
        f"{job['trained_tokens']:,}" if job["trained_tokens"] is not None else "",
    )
    yield "cost", text.cost_so_far(job)
    yield (
        "budget",
        ", ".join(
            f"{name} {cap}" for name, cap in (job.get("budget") or {}).items() if cap is not None
        ),
    )
    yield "took", f"{text.duration(actual['seconds'])}{_against(actual['ratio'])}" if actual else ""
    yield (
        "metadata",
        ", ".join(f"{key}={value}" for key, value in (job.get("metadata") or {}).items()),
    )
    for attempt in job.get("attempts", []):
        outcome = attempt["outcome"] or "running"
        where = [f"{outcome} on {attempt['num_devices']} x {attempt['device']}"]
        where += [cards] if (cards := text.cards(attempt)) else []
        yield f"attempt {attempt['number']}", ", ".join(where)


def _losses(progress: Json) -> str:
    losses = (("train_loss", "training"), ("valid_loss", "validation"))
    return ", ".join(
        f"{text.loss(progress[name])} in {kind}"
        for name, kind in losses
        if progress.get(name) is not None
    )


def _against(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f", {ratio:.2f} times what was expected"
