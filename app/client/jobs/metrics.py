from functools import partial
from typing import Annotated

import typer

from app.client import text
from app.client.api import segment
from app.client.command import Client, JobId, command, option

SPARKLINE_WIDTH = 40

app = typer.Typer()


@command(app, "metrics", "falqon jobs metrics JOB --keys train_loss,valid_loss")
def show_metrics(
    client: Client,
    job_id: JobId,
    keys: Annotated[str | None, option(help="Comma-separated names. Default: all.")] = None,
    points: Annotated[int | None, option(help="Maximum points per series.")] = None,
) -> None:
    """Show the curves that training left; every point with --json."""
    answer = client.api.get(
        f"/fine_tuning/jobs/{segment(job_id)}/metrics", {"keys": keys, "points": points}
    )
    values_of = {
        name: series["values"] for name, series in answer["series"].items() if series["values"]
    }
    heads = ("series", "curve", "first", "last", "lowest", "highest")
    table = partial(client.out.table, heads, (_row(*series) for series in values_of.items()))
    client.out.show(answer, table if values_of else "Nothing was measured yet.")


def _row(name: str, values: list[float]) -> tuple[str, ...]:
    numbers = (values[0], values[-1], min(values), max(values))
    return name, text.sparkline(values, SPARKLINE_WIDTH), *(f"{number:.6g}" for number in numbers)
