"""`falqon jobs compare`: jobs that exist, beside each other."""

from collections.abc import Iterator
from functools import partial

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import Client, JobIds, command
from app.client.errors import Misused

MIN_JOBS, MAX_JOBS = 2, 6

app = typer.Typer()


@command(app, "compare", "falqon jobs compare JOB OTHER_JOB")
def compare_jobs(
    client: Client,
    job_ids: JobIds,
) -> None:
    """Show two to six jobs beside each other: what they reached, and the settings that differ.
    `falqon compare` trains the same data with several methods.
    """
    if not MIN_JOBS <= len(job_ids) <= MAX_JOBS:
        raise Misused(f"Name {MIN_JOBS} to {MAX_JOBS} jobs, not {len(job_ids)}.")
    jobs = [client.api.get(f"/fine_tuning/jobs/{segment(job_id)}") for job_id in job_ids]
    client.out.show({"object": "list", "data": jobs}, partial(_show, client, jobs))


def _show(client: Client, jobs: list[Json]) -> None:
    numbers = [str(number) for number in range(1, len(jobs) + 1)]
    client.out.facts(
        {
            number: f"{job['id']}  {job.get('suffix') or ''}".rstrip()
            for number, job in zip(numbers, jobs, strict=True)
        }
    )
    client.out.say("")
    client.out.table(("", *(Column(number, "wrapped") for number in numbers)), comparison(jobs))


def comparison(jobs: list[Json]) -> Iterator[tuple[object, ...]]:
    """Yield the name and the value of each job: of its results, and of the settings that differ."""
    for row in (*_results(jobs), *_differences(jobs)):
        if any(cell not in (None, "") for cell in row[1:]):
            yield row


def _results(jobs: list[Json]) -> Iterator[tuple[object, ...]]:
    yield "status", *map(text.status, jobs)
    yield "best validation loss", *map(_best, jobs)
    for name, words in {**text.LOSSES, "train_loss": "training loss"}.items():
        yield words, *(text.loss((job.get("progress") or {}).get(name)) for job in jobs)
    yield "against base", *map(text.verdict, jobs)
    yield "done", *map(text.done, jobs)
    yield "cost", *map(text.cost_so_far, jobs)
    yield "time", *(text.duration(job["execution_seconds"]) for job in jobs)


def _differences(jobs: list[Json]) -> Iterator[tuple[object, ...]]:
    for name in ("model", "training_file", "validation_file"):
        yield from _differing(name.replace("_", " "), [job.get(name) for job in jobs])
    recipes = [job.get("config") or {} for job in jobs]
    for name in dict.fromkeys(name for recipe in recipes for name in recipe):
        yield from _differing(name, [recipe.get(name) for recipe in recipes])


def _differing(name: str, values: list[object]) -> Iterator[tuple[object, ...]]:
    if any(value != values[0] for value in values):
        yield name, *values


def _best(job: Json) -> str:
    best = job.get("best_checkpoint") or {"metrics": {}}
    loss = best["metrics"].get("valid_loss")
    return "" if loss is None else f"{text.loss(loss)} at step {best['step_number']}"
