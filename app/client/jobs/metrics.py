from typing import Annotated

import typer

from app.client import text
from app.client.api import segment
from app.client.command import Client, command
from app.client.jobs.actions import JobId

SPARKLINE_WIDTH = 40

app = typer.Typer()


@command(app, "metrics", "falqon jobs metrics JOB --keys train_loss,valid_loss")
def show_metrics(
    client: Client,
    job_id: JobId,
    keys: Annotated[
        str | None, typer.Option(help="Only these, separated by commas.", show_default=False)
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(help="Maximum number of points of each series.", show_default=False),
    ] = None,
) -> None:
    """Show the curves that training left; every point with --json."""
    answer = client.api.get(
        f"/fine_tuning/jobs/{segment(job_id)}/metrics", {"keys": keys, "points": points}
    )
    values_of = {
        name: series["values"] for name, series in answer["series"].items() if series["values"]
    }
    if client.out.as_json:
        client.out.document(answer)
    elif not values_of:
        client.out.say("Nothing was measured yet.")
    else:
        client.out.table(
            ("series", "curve", "first", "last", "lowest", "highest"),
            (_row(*series) for series in values_of.items()),
        )


def _row(name: str, values: list[float]) -> tuple[str, ...]:
    numbers = (values[0], values[-1], min(values), max(values))
    return name, text.sparkline(values, SPARKLINE_WIDTH), *(f"{number:.6g}" for number in numbers)
