"""`falqon compare`: the same data trained with several methods, and one table of the results."""

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated
from uuid import uuid4

import httpx
import typer

from app.client.api import Json, segment
from app.client.command import Client, option
from app.client.errors import Misused, Refused
from app.client.jobs.fields import naming_the_field
from app.client.jobs.request import parse_settings
from app.client.jobs.submitting import DataOption, with_data
from app.client.polling import poll

STUDIES = "/falqon/studies"
STUDY_POLL_SECONDS = 2.0
READ_TIMEOUT_SECONDS = 60.0
GOES_ON = {"validating_files", "queued", "running"}


def compare(
    client: Client,
    model: Annotated[str, option(help="Base model of all jobs.")],
    file: Annotated[
        str, option(help="Training data: the id of a file, or a path that is uploaded first.")
    ],
    validation: Annotated[
        str | None, option(help="Validation data for the comparison: a file id or a path.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Comma-separated methods, or all.")] = "all",
    objective: Annotated[
        str, typer.Option(metavar="OBJECTIVE", help="supervised, or dpo for preference records.")
    ] = "supervised",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per method: 0, 1, …")] = 1,
    learning_rate: Annotated[
        list[str],
        option(metavar="METHOD=RATE", help="Learning rate for one method; may be repeated."),
    ] = [],  # noqa: B006
    rate_factors: Annotated[
        str,
        typer.Option(
            metavar="FACTOR,…", help="Learning rate factors; one job per method and factor."
        ),
    ] = "1",
    settings: Annotated[
        list[str],
        option(
            "--set",
            metavar="KEY=VALUE",
            help="Any field of `falqon`, for all methods with it; may be repeated.",
        ),
    ] = [],  # noqa: B006
    name: Annotated[str | None, option(help="Name of the study.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the jobs to their end.")] = False,
    output: Annotated[Path | None, option(help="Table file to write, .md or .csv.")] = None,
) -> None:
    """Train the same data with several methods, and compare them in one table."""
    if output is not None and output.suffix not in (".md", ".csv"):
        raise Misused(f"--output {output}: a table is written as .md or .csv.")
    if output is not None and not output.parent.is_dir():
        raise Misused(f"--output {output}: there is no folder {output.parent}.")
    body: Json = {
        "model": model,
        "methods": methods if methods == "all" else methods.split(","),
        "objective": objective,
        "falqon": parse_settings(settings),
        "learning_rates": parse_settings(learning_rate, "--learning-rate"),
    }
    if rate_factors != "1":
        body["rate_factors"] = _parse_factors(rate_factors)
    if seeds > 1:
        body["seeds"] = list(range(seeds))
    if name is not None:
        body["name"] = name
    data_options = [
        DataOption("training_file", "--file", file),
        DataOption("validation_file", "--validation", validation),
    ]
    body = with_data(client, STUDIES, body, data_options)
    with naming_the_field(client.api):
        study = client.api.post(STUDIES, body, idempotency_key=str(uuid4()))
    path = f"{STUDIES}/{segment(study['id'])}"
    client.out.note(f"{study['id']}: {len(study['jobs'])} jobs are submitted.")
    if watch:
        study = _follow(client, path, study)
    table = _table(client, path, ".md" if output is None else output.suffix)
    if output is not None:
        _write(output, table, study["id"])
        client.out.note(f"The table is in {output}.")
    client.out.show(study, partial(client.out.write, table) if output is None else None)
    if watch:
        _conclude(study)


def _parse_factors(text: str) -> list[float]:
    try:
        return [float(factor) for factor in text.split(",")]
    except ValueError:
        raise Misused(
            f"--rate-factors {text}: numbers with commas between them, such as 0.5,1,2."
        ) from None


def _follow(client: Client, path: str, study: Json) -> Json:
    """Say whenever a job has become something else, until none goes on by itself."""
    before = ""
    where = f"The table: GET /v1{path}/table.md, or its page /studies."
    try:
        while True:
            counts = Counter(job["status"] for job in study["jobs"])
            now = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
            if now != before:
                client.out.note(now.replace("_", " "))
            before = now
            if not counts.keys() & GOES_ON:
                return study
            time.sleep(STUDY_POLL_SECONDS)
            study = poll(client, path, how_to_go_on=f"The jobs go on. {where}")
    except KeyboardInterrupt:
        client.out.note(f"The jobs go on. {where}")
        raise


def _table(client: Client, path: str, suffix: str) -> str:
    address = f"{path}/table{suffix}"
    try:
        with client.api.stream(address, silence_seconds=READ_TIMEOUT_SECONDS) as answer:
            return answer.read().decode()
    except httpx.TransportError as error:
        raise client.api.unreachable(error) from None


def _write(output: Path, table: str, study_id: str) -> None:
    try:
        output.write_text(table, encoding="utf-8")
    except OSError as error:
        raise Refused(
            f"{output} cannot be written: {error.strerror}.",
            f"The table: GET /v1{STUDIES}/{study_id}/table{output.suffix}, or its page /studies.",
        ) from None


def _conclude(study: Json) -> None:
    unfinished = [job for job in study["jobs"] if job["status"] != "succeeded"]
    if unfinished:
        job = unfinished[0]
        raise Refused(
            f"{len(unfinished)} of {len(study['jobs'])} jobs did not succeed; "
            f"{job['id']} ({job['method']}) is {job['status']}.",
            f"What happened: falqon jobs events {job['id']}",
        )
