"""A job followed to its end: a display on a terminal, a line per happening elsewhere, JSON lines
for programs.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer
from rich.live import Live

from app.base.text import moment as to_second
from app.client import text
from app.client.api import Json, segment
from app.client.command import Client, JobId, command
from app.client.errors import ApiUnavailable, ClientError, NoConnection, Refused
from app.client.jobs.range_test import show_range_test
from app.client.jobs.stream import Lost, Tick, follow, in_order
from app.client.jobs.watched import Watched

REDRAWS_PER_SECOND = 4
PERCENT_BETWEEN_LINES = 5
SECONDS_BETWEEN_REFRESHES = 1.0  # Interval of reads of the job object, while its past streams by.


app = typer.Typer()


@command(app, "watch", "falqon jobs watch JOB")
def watch(client: Client, job_id: JobId) -> None:
    """Follow a job to its end; exit 1 when it failed or was cancelled. Ctrl-C leaves it running."""
    path = f"/fine_tuning/jobs/{segment(job_id)}"
    watched = Watched(client.api.get(path))
    with _leaving_it_running(client, job_id):
        if client.out.as_json:
            _as_json_lines(client, job_id)
        elif client.out.console.is_terminal:
            _as_display(client, path, watched)
        else:
            _as_lines(client, watched)
        job = client.api.get(path, repeatable=True)
    if client.out.as_json:
        client.out.json_line(job)
    _conclude(client, job)


def _as_json_lines(client: Client, job_id: str) -> None:
    for event in follow(client.api, job_id):
        if isinstance(event, dict):
            client.out.json_line(event)
        elif isinstance(event, Lost):
            client.out.say(_trouble(event))


def _as_display(client: Client, path: str, watched: Watched) -> None:
    refresh_at = 0.0
    with Live(
        get_renderable=watched.render,
        console=client.out.console,
        refresh_per_second=REDRAWS_PER_SECOND,
    ):
        for event in follow(client.api, watched.job["id"]):
            watched.trouble = _trouble(event) if isinstance(event, Lost) else ""
            if isinstance(event, dict):
                watched.take(event)
            changed = isinstance(event, dict) and event["type"] != "metrics"
            if isinstance(event, Tick) or (changed and time.monotonic() > refresh_at):
                # The stream itself notices whether that lasts.
                with suppress(NoConnection, ApiUnavailable):
                    watched.job = client.api.get(path)
                refresh_at = time.monotonic() + SECONDS_BETWEEN_REFRESHES
        watched.job = client.api.get(path, repeatable=True)


def _as_lines(client: Client, watched: Watched) -> None:
    last_percent = -math.inf  # Percent; a log stays readable for any number of steps.
    for event in in_order(follow(client.api, watched.job["id"])):
        if isinstance(event, Lost):
            client.out.say(_trouble(event))
        elif isinstance(event, dict):
            watched.take(event)
            when = to_second(event["created_at"])
            if event["type"] != "metrics":
                client.out.say(f"{when}  {event['message']}")
            elif watched.latest and (
                _rare(event) or abs(watched.percent - last_percent) >= PERCENT_BETWEEN_LINES
            ):
                last_percent = watched.percent
                client.out.say(
                    f"{when}  step {watched.latest['step']}/{watched.latest['total_steps']}  "
                    f"{watched.numbers()}"
                )


def _trouble(lost: Lost) -> str:
    return f"{lost.reason} Trying again; the job goes on."


def _rare(event: Json) -> bool:
    """An evaluation, or the last step."""
    data = event["data"]
    return data.get("valid_loss") is not None or data.get("step") == data.get("total_steps")


@contextmanager
def _leaving_it_running(client: Client, job_id: str) -> Iterator[None]:
    come_back = f"Come back with: falqon jobs watch {job_id}"
    try:
        yield
    except KeyboardInterrupt:
        client.out.say(f"The job goes on. {come_back}")
        raise
    except ClientError as error:
        error.hint = f"{error.hint} {come_back}".strip()
        raise


def _conclude(client: Client, job: Json) -> None:
    status = job["status"]
    if status != "succeeded":
        error = job.get("error") or {}
        raise Refused(
            f"{job['id']} {_ended(status)}. {error.get('message') or ''}".rstrip(),
            f"What happened: falqon jobs events {job['id']}",
        )
    if not client.out.as_json:
        cost = text.cost_so_far(job | {"cost": (job.get("cost") or {}) | {"projected": None}})
        tokens = "" if job.get("trained_tokens") is None else f", {job['trained_tokens']:,} tokens"
        outcome = text.status(job)
        client.out.say(
            f"{job['id']} {outcome}{tokens}" + (f", {cost}" if cost else ""), text.STYLES[outcome]
        )
        for line in text.health(job):
            client.out.say(f"Health: {line}", "yellow")
        if job.get("range_test"):
            show_range_test(client, job)
        else:
            client.out.say(f"Download it with: falqon download {job['fine_tuned_model']}")


def _ended(status: str) -> str:
    if status == "failed":
        return "failed"
    if status == "cancelled":
        return "was cancelled"
    return f"is {status}"
