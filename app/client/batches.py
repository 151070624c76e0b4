"""`falqon batches`: many requests in a file, answered when engines have time."""

import time
from pathlib import Path
from typing import Annotated

import typer

from app.client import text
from app.client.api import Json, segment
from app.client.columns import Column
from app.client.command import BatchId, Client, Limit, argument, command, option
from app.client.errors import Refused
from app.client.polling import poll
from app.client.uploading import upload

BATCH_POLL_SECONDS = 1.0
ENDED = ("completed", "failed", "expired", "cancelled")
CHAT = "/v1/chat/completions"

app = typer.Typer(no_args_is_help=True, help="Many requests to models, in a file.")


@command(app, "create", "falqon batches create requests.jsonl --wait")
def create_batch(
    client: Client,
    path: Annotated[Path, argument(help="A JSONL file: a line for each request.")],
    endpoint: Annotated[str, typer.Option(help="The `url` of every line.")] = CHAT,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; exit 1 if it has failed.")
    ] = False,
) -> None:
    """Upload requests and have a worker send them to their model, within 24 hours."""
    file = upload(client, path, purpose="batch")
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
    batch = client.api.post("/batches", body, idempotency_key=file["id"])
    if wait:
        batch = _wait(client, batch)
    _show(client, batch)


@command(app, "list", "falqon batches list")
def list_batches(
    client: Client,
    limit: Limit = 20,
    after: Annotated[str | None, option(help="Start after this batch.")] = None,
) -> None:
    """Show batches, newest first."""
    page = client.api.get("/batches", {"limit": limit, "after": after})
    rows = (
        (
            batch["id"],
            batch["status"],
            *(str(batch["request_counts"][name]) for name in ("completed", "failed", "total")),
            text.moment(batch["created_at"]),
        )
        for batch in page["data"]
    )
    client.out.page(
        page,
        ("id", Column("status", "shortened"), "answered", "failed", "requests", "created"),
        rows,
        "There are no batches; `falqon batches create PATH` makes one.",
    )


@command(app, "show", "falqon batches show BATCH")
def show_batch(client: Client, batch_id: BatchId) -> None:
    """Show one batch, with the files of its answers and of its errors."""
    _show(client, client.api.get(f"/batches/{segment(batch_id)}"))


@command(app, "cancel", "falqon batches cancel BATCH")
def cancel_batch(client: Client, batch_id: BatchId) -> None:
    """Stop a batch; it keeps the answers that it has."""
    _show(client, client.api.post(f"/batches/{segment(batch_id)}/cancel"))


def _show(client: Client, batch: Json) -> None:
    counts = batch["request_counts"]
    errors = batch["errors"]["data"] if batch["errors"] else []
    client.out.show(
        batch,
        {
            "id": batch["id"],
            "status": batch["status"],
            "requests": f"{counts['completed']} of {counts['total']} answered, "
            f"{counts['failed']} failed",
            "answers": batch["output_file_id"],
            "errors": batch["error_file_id"],
            "created": text.moment(batch["created_at"]),
            "expires": text.moment(batch["expires_at"]),
            "reason": "; ".join(map(_reason, errors)),
        },
    )


def _wait(client: Client, batch: Json) -> Json:
    """Return the batch once it has ended. Raises `Refused` if it has failed."""
    path = f"/batches/{segment(batch['id'])}"
    how_to_go_on = f"The batch goes on; look again with: falqon batches show {batch['id']}"
    client.out.note(f"{batch['id']} waits for its answers …")
    while batch["status"] not in ENDED:
        time.sleep(BATCH_POLL_SECONDS)
        batch = poll(client, path, how_to_go_on=how_to_go_on)
    if batch["status"] == "failed":
        reasons = "; ".join(map(_reason, batch["errors"]["data"]))
        raise Refused(f"{batch['id']} has failed: {reasons}", f"falqon batches show {batch['id']}")
    return batch


def _reason(error: Json) -> str:
    place = f"line {error['line']}: " if error.get("line") else ""
    return f"{place}{error['message']}"
