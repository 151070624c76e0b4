"""`falqon jobs find-rate`."""

from typing import Annotated

import typer

from app.client.command import Client, command, option
from app.client.jobs.request import JobOptions, job_body
from app.client.jobs.submitting import JOBS, data_options, submit, with_data

app = typer.Typer()


@command(app, "find-rate", "falqon jobs find-rate --model falqon-tiny --file train.jsonl")
def find_rate(
    client: Client,
    model: Annotated[str, option(help="Model to start from, as `falqon models list` names it.")],
    file: Annotated[
        str, option(help="Training data: the id of a file, or a path that is uploaded first.")
    ],
    options: JobOptions,
    validation_file: Annotated[
        str | None, option(help="Of the training that follows; the test does not read it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Submit without asking.")] = False,
) -> None:
    """Find a learning rate for a job: 20 steps of rising rate on its data, and a proposal. Takes
    the options of `create`, and makes no model.
    """
    body = job_body(model, options)
    body["falqon"] = body.get("falqon", {}) | {"find_rate": True}
    body = with_data(client, JOBS, body, data_options(file, validation_file))
    submit(client, body, yes=yes, then_watch=True)
