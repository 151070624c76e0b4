"""What can be done to a job that exists."""

from typing import Annotated

import typer

from app.client.api import Json, segment
from app.client.command import Client, command
from app.client.jobs.create import MaxCost, MaxSeconds
from app.client.jobs.request import budget

app = typer.Typer()

JobId = Annotated[str, typer.Argument(metavar="JOB", show_default=False)]


@command(app, "cancel")
def cancel_job(client: Client, job_id: JobId) -> None:
    """End a job. What it has trained is not exported."""
    _act(client, job_id, "cancel")


@command(app, "pause")
def pause_job(client: Client, job_id: JobId) -> None:
    """Let a job write a checkpoint and free its device."""
    _act(client, job_id, "pause")


@command(app, "resume")
def resume_job(client: Client, job_id: JobId, max_cost_usd: MaxCost = None, max_seconds: MaxSeconds = None) -> None:
    """Let a paused job go on from its newest checkpoint, with a higher budget where that was used up."""
    caps = budget(max_cost_usd, max_seconds)
    _act(client, job_id, "resume", {"falqon": {"budget": caps}} if caps else None)


@command(app, "delete")
def delete_job(client: Client, job_id: JobId) -> None:
    """Delete a job that has ended, with its events and checkpoints. Its model stays."""
    answer = client.api.delete(f"/fine_tuning/jobs/{segment(job_id)}")
    if client.out.as_json:
        client.out.document(answer)
    else:
        client.out.say(f"{job_id} is deleted.")


def _act(client: Client, job_id: str, action: str, body: Json | None = None) -> None:
    path = f"/fine_tuning/jobs/{segment(job_id)}"
    job = client.api.post(f"{path}/{action}", body)
    if client.out.as_json:
        client.out.document(job)
        return
    newest = client.api.get(f"{path}/events", {"limit": 1})["data"]
    client.out.say(f"{job['id']} is {job['status']}. {newest[0]['message'] if newest else ''}".rstrip())
