"""Deletion by criteria: shown first, and done with `--yes`."""

import time
from typing import Annotated

import typer

from app.client import text
from app.client.api import Json
from app.client.command import Client, option

DAY_SECONDS = 86_400

Search = Annotated[str | None, option(help="Part of the id.")]
CreatedDays = Annotated[int | None, option(min=1, help="Older than so many days.")]
BaseModel = Annotated[str | None, option(help="Made from this model.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete; without it, only show.")]


def days_ago(days: int | None) -> int | None:
    return None if days is None else max(1, int(time.time()) - days * DAY_SECONDS)


def delete_each(
    client: Client, path: str, criteria: Json, created_days: int | None, *, yes: bool
) -> None:
    """Delete what meets all criteria, a hundred in a request."""
    criteria = criteria | {"created_before": days_ago(created_days)}
    body = {name: value for name, value in criteria.items() if value is not None}
    deleted: list[str] = []
    kept: list[Json] = []
    num_bytes = 0
    after: Json = {}
    while True:
        answer = client.api.post(path, body | after | {"dry_run": not yes})
        deleted += answer["deleted"]
        kept += answer["kept"]
        num_bytes += answer["bytes"]
        if not answer["has_more"]:
            break
        after = {"after": answer["last_id"]}
    lines = [*deleted, *(f"{each['id']} stays: {each['message']}" for each in kept)]
    outcome = "deleted" if yes else "would be deleted; --yes deletes them"
    lines.append(f"{len(deleted)} ({text.size(num_bytes)}) {outcome}.")
    client.out.show({"deleted": deleted, "bytes": num_bytes, "kept": kept}, "\n".join(lines))
