"""Actions on a job that exists."""

from enum import StrEnum
from typing import Annotated

import typer

from app.client.api import Json, segment
from app.client.cleaning import BaseModel, CreatedDays, Search, Yes, delete_each
from app.client.command import Client, JobId, command, option
from app.client.errors import Misused
from app.client.jobs.request import MaxCost, MaxSeconds, budget

app = typer.Typer()

# The effect of an action on a job that a worker is running; without one it has already happened.
UNDER_WAY = {
    "cancel": "its worker stops at the next step",
    "pause": "its worker writes a checkpoint and stops",
    "resume": "the pause is withdrawn",
}


@command(app, "cancel", "falqon jobs cancel JOB")
def cancel_job(client: Client, job_id: JobId) -> None:
    """End a job. What it has trained is not exported."""
    _act(client, job_id, "cancel")


@command(app, "pause", "falqon jobs pause JOB")
def pause_job(client: Client, job_id: JobId) -> None:
    """Pause a job: it writes a checkpoint and frees its device."""
    _act(client, job_id, "pause")


@command(app, "resume", "falqon jobs resume JOB --max-cost-usd 9")
def resume_job(
    client: Client, job_id: JobId, max_cost_usd: MaxCost = None, max_seconds: MaxSeconds = None
) -> None:
    """Resume a paused job from its newest checkpoint, with a higher budget if that was used up."""
    caps = budget(max_cost_usd, max_seconds)
    _act(client, job_id, "resume", {"falqon": {"budget": caps}} if caps else None)


@command(app, "edit", 'falqon jobs edit JOB --title "Tone of voice" --note "Too formal."')
def edit_job(
    client: Client,
    job_id: JobId,
    title: Annotated[str | None, option(help="Title; the model keeps its name.")] = None,
    note: Annotated[str | None, option(help="Note; an empty text removes it.")] = None,
) -> None:
    """Give a job a title and a note, in any state."""
    texts = {"title": title, "note": note}
    changes = {name: text or None for name, text in texts.items() if text is not None}
    if not changes:
        raise Misused("Nothing is changed.", "Give a title with --title, or a note with --note.")
    job = client.api.post(f"/fine_tuning/jobs/{segment(job_id)}", {"metadata": changes})
    client.out.show(job, f"{job['id']} is saved.")


@command(app, "delete", "falqon jobs delete JOB")
def delete_job(client: Client, job_id: JobId) -> None:
    """Delete a job that has ended, with its events and checkpoints. Its model stays."""
    answer = client.api.delete(f"/fine_tuning/jobs/{segment(job_id)}")
    client.out.show(answer, f"{job_id} is deleted.")


@command(app, "requeue", "falqon jobs requeue JOB")
def requeue_job(client: Client, job_id: JobId) -> None:
    """Take a job from its worker; needs a key that administers the installation."""
    answer = client.api.post(f"/fine_tuning/jobs/{segment(job_id)}/requeue")
    client.out.show(answer, answer["message"])


class EndedStatus(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@command(app, "clean", "falqon jobs clean --status failed --created-days 90")
def clean_jobs(
    client: Client,
    status: Annotated[EndedStatus | None, option(help="Ended so.")] = None,
    search: Search = None,
    created_days: CreatedDays = None,
    base_model: BaseModel = None,
    yes: Yes = False,
) -> None:
    """Delete the ended jobs that meet all criteria, with events and checkpoints; models stay."""
    criteria = {"status": status, "search": search, "base_model": base_model}
    delete_each(client, "/falqon/deletions/jobs", criteria, created_days, yes=yes)


def _act(client: Client, job_id: str, action: str, body: Json | None = None) -> None:
    job = client.api.post(f"/fine_tuning/jobs/{segment(job_id)}/{action}", body)
    under_way = f"; {UNDER_WAY[action]}" if job["status"] == "running" else ""
    client.out.show(job, f"{job['id']} is {job['status']}{under_way}.")
