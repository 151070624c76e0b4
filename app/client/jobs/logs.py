"""The log of a job's trainer, once or as it grows."""

import sys
import time
from typing import Annotated

import typer

from app.base.terminal import plain
from app.client.api import Json, segment
from app.client.command import Client, JobId, command
from app.client.jobs.watched import FINAL_STATUSES
from app.client.polling import poll

POLL_SECONDS = 2.0
GO_ON = "The job itself goes on; the same command prints its log again."

app = typer.Typer()


@command(app, "logs", "falqon jobs logs JOB --follow")
def show_logs(
    client: Client,
    job_id: JobId,
    attempt: Annotated[
        int | None, typer.Option(help="Attempt number. Default: the newest with a log.", min=1)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow the log to the job's end.")
    ] = False,
) -> None:
    """Print the log of a job's trainer. Ctrl-C leaves the job running."""
    path = f"/fine_tuning/jobs/{segment(job_id)}"
    log = client.api.get(f"{path}/logs", {"attempt": attempt})
    if log["text"] or client.out.as_json:
        _print(client, log, is_whole=not follow)
    if follow:
        _follow(client, path, log, attempt)
    elif not log["text"]:
        client.out.note("Nothing was logged.")


def _follow(client: Client, path: str, log: Json, only: int | None) -> None:
    """Print what comes after `log`; of the attempts that follow, too, unless `only` one counts."""
    number, position = log["attempt"] or 0, log["bytes"]
    has_ended = False
    while not has_ended:
        time.sleep(POLL_SECONDS)
        # Asked before the log, whose last lines are there before the job ends.
        job = poll(client, path, how_to_go_on=GO_ON)
        has_ended = job["status"] in FINAL_STATUSES
        for attempt in job["attempts"]:
            if attempt["number"] < number or only not in (None, attempt["number"]):
                continue
            if attempt["number"] > number:
                number, position = attempt["number"], 0
                client.out.note(f"Attempt {number}:")
            if attempt["log_bytes"] > position:
                query = {"attempt": number, "after": position or None}
                log = poll(client, f"{path}/logs", query, how_to_go_on=GO_ON)
                position = log["bytes"]
                _print(client, log, is_whole=False)
            has_ended = has_ended or (only is not None and attempt["ended_at"] is not None)


def _print(client: Client, log: Json, *, is_whole: bool) -> None:
    if not client.out.as_json:
        sys.stdout.write(plain(log["text"]))
        sys.stdout.flush()
    elif is_whole:
        client.out.show(log)
    else:
        client.out.json_line(log)
