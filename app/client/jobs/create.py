"""`falqon jobs create` and `falqon jobs clone`."""

from typing import Annotated

import typer

from app.client.command import Client, command
from app.client.jobs.request import job_body
from app.client.jobs.submitting import submit, submit_clone, usable_file

app = typer.Typer()

Suffix = Annotated[str | None, typer.Option(help="A word in the name of the model that comes out.", show_default=False)]
Seed = Annotated[int | None, typer.Option(help="Same seed, same data, same result.", show_default=False)]
Epochs = Annotated[int | None, typer.Option(help="Passes over the data.", show_default=False)]
BatchSize = Annotated[int | None, typer.Option(help="Records per step.", show_default=False)]
LearningRate = Annotated[float | None, typer.Option(help="Absolute, not a multiplier.", show_default=False)]
Priority = Annotated[int | None, typer.Option(help="-10 to 10; in your project, higher runs first.", show_default=False)]
MaxCost = Annotated[str | None, typer.Option("--max-cost-usd", metavar="USD", help="Pause when it has cost so much.", show_default=False)]
MaxSeconds = Annotated[int | None, typer.Option(help="Pause when it has run so long.", show_default=False)]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Any field of `falqon`, as rank=32; may be repeated.", show_default=False)
]
Metadata = Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Kept with the job; may be repeated.", show_default=False)]
Watch = Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")]


@command(app, "create")
def create_job(
    client: Client,
    model: Annotated[str, typer.Option(help="What to start from, as `falqon models list` names it.", show_default=False)],
    file: Annotated[str, typer.Option(help="Training data: the id of a file, or a path that is uploaded first.", show_default=False)],
    validation_file: Annotated[str | None, typer.Option(help="Likewise, to validate with.", show_default=False)] = None,
    suffix: Suffix = None,
    seed: Seed = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    settings: Settings = [],  # noqa: B006
    priority: Priority = None,
    max_cost_usd: MaxCost = None,
    max_seconds: MaxSeconds = None,
    metadata: Metadata = [],  # noqa: B006
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Submit without asking.")] = False,
    watch: Watch = False,
) -> None:
    """Show what a fine-tuning job will take, ask, and submit it."""
    body = job_body(
        model=model, suffix=suffix, seed=seed, priority=priority, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        max_cost_usd=max_cost_usd, max_seconds=max_seconds, settings=settings, metadata=metadata,
    )  # fmt: skip
    body["training_file"] = usable_file(client, file, "--file")
    if validation_file is not None:
        body["validation_file"] = usable_file(client, validation_file, "--validation-file")
    submit(client, body, yes=yes, then_watch=watch)


@command(app, "clone")
def clone_job(
    client: Client,
    job_id: Annotated[str, typer.Argument(metavar="JOB", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Start from another model.", show_default=False)] = None,
    file: Annotated[str | None, typer.Option(help="Train on other data: the id of a file, or a path.", show_default=False)] = None,
    validation_file: Annotated[str | None, typer.Option(help="Likewise, to validate with.", show_default=False)] = None,
    suffix: Suffix = None,
    seed: Seed = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    settings: Settings = [],  # noqa: B006
    priority: Priority = None,
    max_cost_usd: MaxCost = None,
    max_seconds: MaxSeconds = None,
    metadata: Metadata = [],  # noqa: B006
    watch: Watch = False,
) -> None:
    """Submit a job again, with what is given here changed."""
    changes = job_body(
        model=model, suffix=suffix, seed=seed, priority=priority, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        max_cost_usd=max_cost_usd, max_seconds=max_seconds, settings=settings, metadata=metadata,
    )  # fmt: skip
    if file is not None:
        changes["training_file"] = usable_file(client, file, "--file")
    if validation_file is not None:
        changes["validation_file"] = usable_file(client, validation_file, "--validation-file")
    submit_clone(client, job_id, changes, then_watch=watch)
