"""`falqon jobs create` and `falqon jobs clone`."""

from typing import Annotated

import typer

from app.client.command import Client, JobId, command, option
from app.client.jobs.fields import naming_the_field
from app.client.jobs.request import JobOptions, job_body
from app.client.jobs.submitting import (
    JOBS,
    clone_path,
    data_options,
    submit,
    submit_clone,
    with_data,
)

app = typer.Typer()

Watch = Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")]


@command(
    app, "create", "falqon jobs create --model falqon-tiny --file train.jsonl --set rank=16 --watch"
)
def create_job(
    client: Client,
    model: Annotated[str, option(help="Base model, as in `falqon models list`.")],
    file: Annotated[
        str, option(help="Training data: the id of a file, or a path that is uploaded first.")
    ],
    options: JobOptions,
    validation_file: Annotated[
        str | None, option(help="Validation data, given in the same way.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Submit without asking.")] = False,
    watch: Watch = False,
) -> None:
    """Show what a fine-tuning job will take, ask, and submit it."""
    body = job_body(model, options)
    body = with_data(client, JOBS, body, data_options(file, validation_file))
    submit(client, body, yes=yes, then_watch=watch)


@command(app, "clone", "falqon jobs clone JOB --epochs 1")
def clone_job(
    client: Client,
    job_id: JobId,
    options: JobOptions,
    model: Annotated[str | None, option(help="Start from another model.")] = None,
    file: Annotated[
        str | None, option(help="Train on other data: the id of a file, or a path.")
    ] = None,
    validation_file: Annotated[
        str | None, option(help="Validation data, given in the same way.")
    ] = None,
    watch: Watch = False,
) -> None:
    """Submit a job again, with what is given here changed."""
    changes = job_body(model, options)
    changes = with_data(client, clone_path(job_id), changes, data_options(file, validation_file))
    with naming_the_field(client.api):
        submit_clone(client, job_id, changes, then_watch=watch)
